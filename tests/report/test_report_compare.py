"""The table of a comparison, held to the functional measures computed directly, and its controls."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_runs import LITE0, PIXELS, emoji16, planted, write_run

from smoothscore.cli import main
from smoothscore.data import Emoji, equal_reference_rows
from smoothscore.distances import decode
from smoothscore.errors import UserError
from smoothscore.functional import (
    auth_pct,
    c_t,
    calibrated_distance,
    excess_copies,
    fraction_interval,
    frechet_from_features,
    kernel_distance,
    memorization_report,
    mifid,
    prdc,
    vendi,
)
from smoothscore.metrics import MEASURES, GeneratedImages
from smoothscore.report import Table, compare_runs
from smoothscore.report.measure import _digest, measure_images
from smoothscore.report.pictures import feature_pairs, grade, pixel_pairs
from smoothscore.report.table import Column, Row

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def data():
    return emoji16()


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / "conditioned", planted(data, 96, copies=60), fraction=0.6),
        write_run(folder / "smoothed", planted(data, 96, copies=20, seed=1), fraction=0.2, data={"k": 5}),
    ]


def read_table(folder: Path) -> dict[str, dict[str, float | None]]:
    with (folder / "table.csv").open(newline="") as file:
        return {
            row.pop("run"): {key: float(value) if value else None for key, value in row.items()}
            for row in csv.DictReader(file)
        }


def test_figures_equal_the_functions_computed_directly(runs, data, tmp_path):
    compare_runs(runs).table.write(tmp_path)
    table = read_table(tmp_path)
    assert list(table) == ["conditioned", "smoothed", "held-out images"]
    train, test = data.train.pixels, data.test.pixels
    rows = equal_reference_rows(data.train.labels, data.test.labels)
    assert len(rows[0]) < len(train)
    references = [images[row].flatten(1).float() / 255 for images, row in zip((train, test), rows, strict=True)]
    for name, copies, seed, fraction in (("conditioned", 60, 0, 0.6), ("smoothed", 20, 1, 0.2)):
        samples = planted(data, 96, copies=copies, seed=seed)
        report = memorization_report(samples, train)
        assert report.count > 0
        features = samples.clamp(0, 1).flatten(1)
        distances = [float(frechet_from_features(r, features)) for r in references]
        kernels = [kernel_distance(r, features).mean for r in references]
        excess = memorization_report(samples, train, control=test)
        flat = [images.flatten(1).float() / 255 for images in (train, test)]
        copies = excess_copies(*({"pixels": images} for images in (samples, train, test)))
        near = prdc(references[1], features)
        expected = {
            "excess": excess.difference,
            "excess_low": excess.difference_interval[0],
            "below_half": int((report.ratio < 1 / 2).sum()) / 96,
            "calibrated": float((calibrated_distance(samples, train) < 1).double().mean()),
            "copies_excess_pixels": copies.excess,
            "copies_excess_pixels_low": copies.interval[0],
            "copies_excess_pixels_high": copies.interval[1],
            "copies_p_value_pixels": copies.p_value,
            "copies_label_p_value_pixels": copies.label_p_value,
            "copies_flagged_pixels": float(copies.flagged.double().mean()),
            "auth_pct_pixels": auth_pct(flat[0], features),
            "c_t_pixels": c_t(*flat, features, cells=1, least=1).z,
            "frechet_ratio_pixels": distances[1] / distances[0],
            "kernel_train_pixels": kernels[0],
            "kernel_test_pixels": kernels[1],
            "mifid_pixels": mifid(flat[0], features).value,
            "vendi_pixels": vendi(features),
            **{f"{measure}_pixels": value for measure, value in near._asdict().items()},
            "memorized": report.count / 96,
            "memorized_low": report.interval[0],
            "memorized_high": report.interval[1],
            "below_third": int((report.ratio < 1 / 3).sum()) / 96,
            "mean_ratio": float(report.ratio.double().mean()),
            "min_ratio": float(report.ratio.min()),
            "frechet_train_pixels": distances[0],
            "frechet_test_pixels": distances[1],
            "expansion_0.1": 1 + 4.5 * fraction,
            "expansion_0.3": 1 + 2.4 * fraction,
            "expansion_1": 1 + 0.9 * fraction,
            "nfe": 300,
            "step_ms": 100 + 10 * fraction + 11.8,
            "samples": 96,
        }
        assert {key: table[name][key] for key in expected} == pytest.approx(expected, rel=1e-5)
        ends = [key for key in table[name] if key.endswith(("_low", "_high"))]
        assert {key for key in table[name] if key not in ends} <= set(expected)
        for key in ends:
            sign = 1 if key.endswith("_high") else -1
            assert sign * table[name][key] >= sign * table[name][key.rpartition("_")[0]]
    control = memorization_report(test, train)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:96]
    held_out = table["held-out images"]
    assert held_out["memorized"] == pytest.approx(control.fraction)
    assert (held_out["memorized_low"], held_out["memorized_high"]) == pytest.approx(control.interval)
    assert held_out["min_ratio"] == pytest.approx(control.minimum, rel=1e-6)
    expected = frechet_from_features(references[0], test[order].flatten(1).float() / 255)
    assert held_out["frechet_train_pixels"] == pytest.approx(float(expected), rel=1e-5)
    blank = ("frechet_test_pixels", "frechet_ratio_pixels", "kernel_test_pixels", "precision_pixels", "excess")
    blank += ("c_t_pixels", "copies_excess_pixels", "copies_p_value_pixels", "expansion_0.1", "nfe", "step_ms")
    assert [held_out[key] for key in blank] == [None] * len(blank)
    chosen = test[order].flatten(1).float() / 255
    assert held_out["kernel_train_pixels"] == pytest.approx(kernel_distance(references[0], chosen).mean, rel=1e-5)
    assert held_out["auth_pct_pixels"] == pytest.approx(auth_pct(train.flatten(1).float() / 255, chosen), rel=1e-6)


def test_runs_are_sorted_with_controls_last(runs, tmp_path, capsys):
    def names(key):
        return [row.name for row in compare_runs(runs, sort=key).table.rows]

    assert names("memorized") == ["smoothed", "conditioned", "held-out images"]
    assert names("mean_ratio")[0] == "smoothed"  # higher is better
    comparison = compare_runs(runs[::-1], sort="below_third")
    assert [measured.run.name for measured in comparison.runs] == names("below_third")[:2]
    with pytest.raises(SystemExit):
        main(["compare", *map(str, runs), "--sort", "fid", "--out", str(tmp_path)])
    assert "There is no column fid" in capsys.readouterr().err


COLUMN = Column("m", "m", interval=True, better="low")


def standing(column: Column, *figures: tuple[float, float, float]) -> dict[str, str]:
    rows = [Row(f"run {n}", {"m": v, "m_low": low, "m_high": high}) for n, (v, low, high) in enumerate(figures)]
    return Table((column,), (*rows, Row("held-out", {"m": -9.0}, control=True))).standing(column)


def test_ties_are_differences_inside_the_intervals():
    """By Newcombe's rule: 3 and 4 toward each other make 5."""
    far, near = (15.1, 11.1, 99.0), (15.0, 11.0, 99.0)
    assert standing(COLUMN, (10.0, -99.0, 13.0), far) == {"run 0": "best"}
    assert standing(COLUMN, (10.0, -99.0, 13.0), near) == {"run 0": "best", "run 1": "tie"}
    high = replace(COLUMN, better="high")
    assert standing(high, (10.0, -99.0, 13.0), far) == {"run 1": "best"}
    assert standing(high, (10.0, -99.0, 13.0), near) == {"run 1": "best", "run 0": "tie"}
    assert standing(replace(COLUMN, interval=False), far, near, near) == {"run 1": "best", "run 2": "tie"}
    assert standing(replace(COLUMN, better=""), far, near) == {}
    assert standing(COLUMN, far) == {}
    assert standing(COLUMN, (math.nan, 0, 0), far, near)["run 2"] == "best"


def test_ties_hold_their_level():
    """Two runs of one model, 400 times: they tie in about 95 of 100."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.binomial(torch.full((400, 2), 200.0), torch.full((400, 2), 0.3), generator=generator).int()
    ties = 0
    for pair in counts.tolist():
        figures = [(count / 200, *fraction_interval(count, 200)) for count in pair]
        ties += "tie" in standing(COLUMN, *figures).values()
    assert 0.91 < ties / 400 < 0.99


def test_jackknife_of_a_distance_says_how_far_it_moves(data):
    """The interval of one sample set covers about what other sets of the same size score."""
    distinct = Emoji(image_size=16, num_train=100, num_test=100)
    measures = GeneratedImages(
        distinct.train.pixels,
        distinct.test.pixels,
        featurize=lambda images: decode(images).flatten(1)[:, ::16],
        name="few",
        reference_train=torch.arange(100),
        reference_test=torch.arange(100),
        measures=MEASURES,
    )
    generator = torch.Generator().manual_seed(0)
    sets = [
        distinct.train.pixels[:80].float() / 255 + 0.3 * torch.randn(80, 3, 16, 16, generator=generator)
        for _ in range(8)
    ]
    found = [measure_images(measures, images)[:2] for images in sets]
    for name in ("frechet/test_few", "kernel/test_few", "diversity/vendi_few"):
        values = torch.tensor([figures[name] for figures, _ in found])
        widths = torch.tensor([(high - low) / 2 / 1.96 for low, high in (ends[name] for _, ends in found)])
        # these sets share their images, so they differ less than the images' own choice, which the jackknife adds
        assert float(values.std()) < 1.5 * float(widths.mean())
        assert all(ends[name][0] < figures[name] < ends[name][1] for figures, ends in found)


def test_json_holds_the_same_figures(runs, tmp_path):
    table = compare_runs(runs).table
    table.write(tmp_path)
    content = json.loads((tmp_path / "table.json").read_text())
    for row in content["rows"]:
        figures = {key: value for key, value in row.items() if key not in ("run", "control")}
        assert figures == pytest.approx(read_table(tmp_path)[row["run"]])
    assert [row["control"] for row in content["rows"]] == [False, False, True]
    assert content["notes"] == list(table.notes)


class Drifting(torch.nn.Module):
    """Features that depend a little on the place in the batch, as rounding does on some machines."""

    name = "drifting"

    def forward(self, images):
        features = torch.nn.functional.avg_pool2d(images, 4).flatten(1)
        return features + 1e-5 * torch.arange(len(images))[:, None]


def test_a_copycat_scores_all_and_duplicates_do_not_hide_it(tmp_path, monkeypatch, data):
    """A fifth of the training images twice: copies of them are still found, in pixels and in features."""
    doubled = data.train.rows(torch.cat([torch.arange(30), torch.arange(150)]))
    monkeypatch.setattr(Emoji, "read", lambda self: data._split._replace(train=doubled))
    run = write_run(tmp_path / "copycat", data.train.pixels[:40].float() / 255)
    comparison = compare_runs([run], extractor=Drifting())
    assert comparison.table.rows[0].values["memorized"] == 1
    assert comparison.num_features == 48
    measured = comparison.runs[0]
    assert measured.features.fraction == 1
    rows = [*range(30), *range(60, 70)]  # of equal rows the first
    for report, pairs in ((measured.pixels, pixel_pairs), (measured.features, feature_pairs)):
        assert report.nearest.tolist() == rows
        for pair in pairs(measured, 40, 16):
            seed = int(pair.pictures[0].caption.removeprefix("seed "))
            assert f"training image {rows[seed]}," in pair.pictures[1].alt
            assert pair.pictures[1].source == pair.pictures[0].source != pair.pictures[2].source


def test_few_samples_are_warned_about(tmp_path, data):
    run = write_run(tmp_path / "run", planted(data, 8, copies=8), extractor=LITE0, label="lite0")
    comparison = compare_runs([run])
    (note,) = comparison.table.notes
    assert "biased upwards: lite0 has 1,280 features" in note
    assert "only 8 samples" in note
    floor = comparison.table.rows[1].values["frechet_train_lite0"]
    assert f"8 real held-out images, which a perfect model could have drawn, score {floor:.3g}" in note


def test_enough_samples_carry_no_warning(tmp_path, data):
    class Mean(torch.nn.Module):
        def forward(self, images):
            return images.mean((2, 3))

    run = write_run(tmp_path / "run", planted(data, 64, copies=8))
    comparison = compare_runs([run], extractor=Mean())
    assert comparison.extractor == "Mean"
    assert comparison.table.notes == ()


def test_runs_on_other_images_get_their_own_control(tmp_path, data):
    other = {"num_train": 40, "num_test": 100}
    samples = planted(data, 32, copies=8)
    runs = [
        write_run(tmp_path / "many", samples),
        write_run(tmp_path / "forty", samples, data=other),
        write_run(tmp_path / "again", samples, data={"k": 9, "flip": True}),
    ]
    comparison = compare_runs(runs)
    names = [row.name for row in comparison.table.rows]
    assert names[3:] == ["held-out images (for many, again)", "held-out images (for forty)"]
    assert comparison.runs[0].data is comparison.runs[2].data
    split = Emoji(image_size=16, **other)
    expected = memorization_report(split.test.pixels, split.train.pixels)
    assert comparison.table.rows[4].values["mean_ratio"] == pytest.approx(expected.mean)
    assert any("different images" in note for note in comparison.table.notes)


def test_runs_are_on_the_same_images_if_all_of_them_are(data):
    sides = {"train": data.train, "test": data.test}
    same = _digest(SimpleNamespace(**sides))
    assert same == _digest(emoji16())
    for name, images in sides.items():
        for part in ("pixels", "labels"):
            changed = images._replace(**{part: getattr(images, part) ^ 1})
            assert _digest(SimpleNamespace(**sides | {name: changed})) != same


def test_pairs_are_sorted_and_named_by_their_training_rows(runs, data):
    measured = compare_runs(runs).runs[0]
    pairs = pixel_pairs(measured, 5, 16)
    ratios = measured.pixels.ratio
    assert [pair.ratio for pair in pairs] == sorted(ratios.tolist())[:5]
    row = int(ratios.argmin())
    distance = (measured.run.samples.images[row] - data.train.pixels.float() / 255).flatten(1).norm(dim=1)
    (d1, d2), (first, second) = (part[:2].tolist() for part in distance.sort())
    sample, nearest, runner_up = pairs[0].pictures
    assert sample.caption == f"seed {row}"
    assert (nearest.caption, runner_up.caption) == (f"d₁ {d1:.3g}", f"d₂ {d2:.3g}")
    assert f"training image {first}," in nearest.alt
    assert f"training image {second}," in runner_up.alt


def test_grades_stand_at_the_thresholds_of_the_count():
    third, two_thirds = (float(torch.tensor(limit)) for limit in (1 / 3, 2 / 3))
    assert [grade(ratio) for ratio in (third, 0.3333, two_thirds, 0.6666)] == ["close", "copy", "", "close"]


def test_errors_name_the_culprit(tmp_path, data):
    samples = planted(data, 8, copies=2)
    one = write_run(tmp_path / "one", samples, extractor=PIXELS)
    two = write_run(tmp_path / "two", samples, extractor=LITE0)
    with pytest.raises(UserError, match=r"one was measured with Pixels, two with EfficientNetLite0.*--extractor"):
        compare_runs([one, two])
    null = write_run(tmp_path / "null", samples, extractor=None)
    assert compare_runs([one, null]).extractor == "pixels"
    small = write_run(tmp_path / "small", samples[:, :, :8, :8])
    with pytest.raises(UserError, match=r"samples of small have shape \[3, 8, 8\].*\[3, 16, 16\]"):
        compare_runs([small])
    broken = samples.clone()
    broken[3, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"nan/samples\.npz cannot be measured.*row 3"):
        compare_runs([write_run(tmp_path / "nan", broken)])
    gone = write_run(tmp_path / "gone", samples, data={"no_such_option": 1})
    with pytest.raises(UserError, match=r"gone/config\.yaml cannot be built again.*no_such_option"):
        compare_runs([gone])
    config = (one / "config.yaml").read_text()
    (one / "config.yaml").write_text(config.replace("sampler:", "nothing:"))
    with pytest.raises(UserError, match="no Generation callback"):
        compare_runs([one])


def test_command_prints_and_writes(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["compare", *map(str, runs), "--seeds", "4", "--pairs", "2"])
    printed = capsys.readouterr().out
    table = read_table(tmp_path / "compare")
    for name in table:
        assert f"{name} " in printed
        assert f"{100 * table[name]['memorized']:.1f} %" in printed
    assert "biased upwards" in printed
    assert (tmp_path / "compare" / "report.html").is_file()
    for arguments, culprit in ((["compare"], "No run"), (["compare", str(runs[0]), "--pairs", "0"], "--pairs is 0")):
        with pytest.raises(SystemExit):
            main(arguments)
        assert culprit in capsys.readouterr().err


def test_figures_of_a_training_are_measured_again_alike(tmp_path, monkeypatch):
    """What Generation logs and what compare computes come from the same samples and must agree."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    main(["fit", "--config", "configs/experiment/emoji_fast.yaml"])
    (folder,) = Path("runs/emoji_fast").iterdir()
    comparison = compare_runs([folder])
    measured, values = comparison.runs[0], comparison.table.rows[0].values
    logged = {name: curve.value[-1] for name, curve in measured.run.curves.items()}
    figures = [name for name in logged if name.startswith(("memorization", "frechet", "prdc", "kernel"))]
    assert len(figures) == 21
    assert {name: measured.figures[name] for name in figures} == pytest.approx(
        {name: logged[name] for name in figures}, rel=1e-4
    )
    assert values["expansion_0.2"] == logged["expansion/network_0.2"]
    assert values["nfe"] == logged["generation/nfe"]
    assert values["step_ms"] == logged["train/step_ms"]
