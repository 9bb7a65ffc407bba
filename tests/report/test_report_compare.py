"""The table of a comparison, held to the functional measures computed directly, and its controls."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from fake_runs import LITE0, PIXELS, emoji16, planted, write_run

from smoothscore.cli import main
from smoothscore.data import Emoji, equal_reference_rows
from smoothscore.errors import UserError
from smoothscore.functional import frechet_from_features, memorization_report
from smoothscore.report import compare_runs
from smoothscore.report.pictures import feature_pairs, grade, pixel_pairs

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
        distances = [float(frechet_from_features(r, samples.clamp(0, 1).flatten(1))) for r in references]
        assert table[name] == pytest.approx(
            {
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
            },
            rel=1e-5,
        )
    control = memorization_report(test, train)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:96]
    held_out = table["held-out images"]
    assert held_out["memorized"] == pytest.approx(control.fraction)
    assert (held_out["memorized_low"], held_out["memorized_high"]) == pytest.approx(control.interval)
    assert held_out["min_ratio"] == pytest.approx(control.minimum, rel=1e-6)
    expected = frechet_from_features(references[0], test[order].flatten(1).float() / 255)
    assert held_out["frechet_train_pixels"] == pytest.approx(float(expected), rel=1e-5)
    blank = ("frechet_test_pixels", "expansion_0.1", "nfe", "step_ms")
    assert [held_out[key] for key in blank] == [None] * 4


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
    figures = [name for name in logged if name.startswith(("memorization", "frechet"))]
    assert len(figures) == 9
    assert measured.figures == pytest.approx({name: logged[name] for name in figures}, rel=1e-4)
    assert values["expansion_0.2"] == logged["expansion/network_0.2"]
    assert values["nfe"] == logged["generation/nfe"]
    assert values["step_ms"] == logged["train/step_ms"]
