"""Planted copies: a detector that knows finds them all, fresh images are accused at the level, and bad input."""

import json

import pytest
import torch

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import planted
from smoothscore.experiments.detection import C_T, LABELS, NEW, Detectors, Look, Verdict
from smoothscore.experiments.planted import CHANGES
from smoothscore.functional import CopyScores
from smoothscore.neighbors import Pixels

SMALL = {"extractor": Pixels(), "num_held_out": 150, "num_samples": 100}


def small() -> Emoji:
    return Emoji(image_size=8, num_train=500, num_test=100)


class Knowing(Detectors):
    """Catches an image if it is, bit for bit, a training image; accuses at three of them."""

    def __init__(self, train, held_out, *, seed):
        assert len(train["pixels"]) == 350
        assert len(held_out["pixels"]) == 150
        self.known = {row.numpy().tobytes() for row in train["pixels"]}
        assert not self.known & {row.numpy().tobytes() for row in held_out["pixels"]}

    def look(self, images):
        flags = torch.tensor([row.numpy().tobytes() in self.known for row in images["pixels"]])
        nothing = torch.zeros(len(flags), 1)
        return Look({NEW: flags}, nothing, nothing, CopyScores(*4 * [nothing]))

    def judge(self, parts):
        caught = torch.cat([look.caught[NEW][part] for look, part in parts])
        assert len(caught) == 100
        return [Verdict(name, float(caught.sum() < 3)) for name in (NEW, LABELS, "d1/d2")]


def test_a_perfect_detector_finds_exact_copies_and_accuses_nobody(monkeypatch):
    monkeypatch.setitem(planted.__globals__, "Detectors", Knowing)
    rows = planted((0.02, 0.2), data=small(), num_splits=3, **SMALL).rows
    new = {(row["change"], row["share"]): row for row in rows if row["measure"] == NEW}
    assert list(new) == [("none", 0.0), *((change, share) for change in CHANGES for share in (0.02, 0.2))]
    for (change, share), row in new.items():
        if change == "exact":
            assert (row["power"], row["median_p"], row["caught"]) == (float(share == 0.2), float(share < 0.2), 1)
        elif change in ("noise 0.05", "color 5-10 %"):
            assert (row["power"], row["caught"]) == (0, 0)  # not equal, bit for bit
        assert row["false_caught"] == 0
    assert new["none", 0.0]["power"] == 0


def test_excess_copies_find_exact_copies(monkeypatch, capsys):
    result = planted((0.2,), data=small(), num_splits=4, **SMALL)
    rows = {(row["change"], row["measure"]): row for row in result.rows}
    exact = rows["exact", NEW]
    assert (exact["share"], exact["power"], exact["caught"]) == (0.2, 1, 1)
    assert rows["exact", "d1/d2 < 1/3 (pixels)"]["caught"] == 1
    assert 0 < exact["false_caught"] < 0.12
    assert rows["none", C_T]["caught"] is None
    assert {change for change, _ in rows} == {"none", *CHANGES}
    assert "20% of copies" in result.summary


@pytest.mark.parametrize("splits", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_fresh_images_are_accused_at_the_level(splits):
    """At 5 %, 60 splits accuse 3 times, and more than 8 times with a chance of 0.3 %."""
    result = planted((0.0,), data=small(), num_splits=splits, **SMALL)
    assert {row["change"] for row in result.rows} == {"none"}
    rows = {row["measure"]: row for row in result.rows}
    for name, row in rows.items():
        assert row["power"] <= 0.05 + 3 * (0.05 * 0.95 / splits) ** 0.5, name
    assert 0.02 < rows[NEW]["false_caught"] < 0.07


def test_changes_are_what_they_are_called():
    images = torch.rand(4, 3, 8, 8)
    changed = {name: change(images) for name, change in CHANGES.items()}
    assert torch.equal(changed["exact"], images)
    inner = (images > 0.2) & (images < 0.8)
    noise = (changed["noise 0.05"] - images)[inner]
    assert 0.03 < float(noise.std()) < 0.07
    assert torch.equal(changed["shift 1 pixel"][..., 1:], images[..., :-1])
    assert torch.equal(changed["flip"].flip(-1), images)
    torch.testing.assert_close((changed["color 5-10 %"] / images).mean((0, 2, 3)), torch.tensor([0.95, 1.0, 0.9]))


def test_command_writes_table_and_figure(tmp_path, capsys):
    arguments = ["--num_splits=1", "--num_held_out=100", "--num_samples=60", "--shares=[0.1]", "--extractor=Pixels"]
    data = ["--data=Emoji", "--data.image_size=8", "--data.num_train=300"]
    main(["analyze", "planted", *arguments, *data, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "planted.json").read_text())
    assert {row["share"] for row in report["rows"]} == {0.0, 0.1}
    assert all((tmp_path / f"planted.{suffix}").stat().st_size for suffix in ("csv", "png", "svg"))
    assert "Excess copies accuse a model without copies" in capsys.readouterr().out


def test_help_names_extractors_and_no_thousand_modules(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["analyze", "planted", "--help"])
    printed = capsys.readouterr().out
    assert "smoothscore.neighbors.InceptionFeatures, and any" in " ".join(printed.split())
    assert "torch.nn.Linear" not in printed
    assert len(printed.splitlines()) < 80
    assert "\n\nColumns: `power`" in printed


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"shares": ()}, "shares are"),
        ({"shares": (1.2,)}, "shares are"),
        ({"shares": (float("nan"),)}, "shares are"),
        ({"shares": (0.001,)}, "at least one of 100 samples"),
        ({"num_splits": 0}, "num_splits is 0"),
        ({"num_held_out": 480}, "There are 600 different images, too few for 480 held-out"),
        ({"num_held_out": 10}, "at least 15 held-out images"),
    ],
)
def test_bad_input_is_named(options, culprit):
    with pytest.raises(UserError, match=culprit):
        planted(data=small(), **{**SMALL, **options})
