"""The two-split test: distances by brute force, models that copy and models that know, and bad input."""

import json

import pytest
import torch
from torch import Tensor

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import split
from tests.report.fake_runs import write_run

HALF = {"num_train": 100, "num_test": 60}


def half(which: str) -> Emoji:
    return Emoji(image_size=16, half=which, **HALF)


def noisy(images: Tensor, seed: int) -> Tensor:
    clean = images.float() / 255 if images.dtype == torch.uint8 else images
    return clean + 0.01 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))


def runs(folder, kind, first_seed=0):
    """Two run folders: of models that copy their own halves, or that draw the same fresh images."""
    made = []
    for number, which in enumerate(("first", "second")):
        data = half(which)
        if kind == "copies":
            images = noisy(data.train.pixels[:40], number)
        else:
            fresh = data.test.pixels.float() / 255
            images = noisy(0.6 * fresh[:40] + 0.4 * fresh[20:60], number)
        own_seed = first_seed * number
        made.append(write_run(folder / which, images, data={"half": which, **HALF}, first_seed=own_seed))
    return made


def apart(one: Tensor, other: Tensor) -> Tensor:
    flat = [(rows.double() / 255 if rows.dtype == torch.uint8 else rows.double()).flatten(1) for rows in (one, other)]
    return torch.cdist(*flat, compute_mode="donot_use_mm_for_euclid_dist")


def test_distances_equal_brute_force(tmp_path):
    """The second run's seeds begin at 7: 33 are common."""
    result = split(*map(str, runs(tmp_path, "copies", first_seed=7)))
    train = [half(which).train.pixels for which in ("first", "second")]
    one, two = noisy(train[0][:40], 0)[7:], noisy(train[1][:40], 1)[:33]
    pair = apart(one, two)
    turned = torch.cat([torch.diagonal(apart(one, two.roll(turn, 0))) for turn in range(1, 21)])
    own = torch.cat([apart(one, train[0]).amin(1), apart(two, train[1]).amin(1)])
    cross = torch.cat([apart(one, train[1]).amin(1), apart(two, train[0]).amin(1)])
    expected = {
        "same seed": pair.diagonal(),
        "other seeds": turned,
        "own training images": own,
        "other training images": cross,
    }
    assert [row["kind"] for row in result.rows] == list(expected)
    for row, values in zip(result.rows, expected.values(), strict=True):
        assert row["pairs"] == len(values)
        quantiles = values.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        assert [row["low"], row["median"], row["high"]] == pytest.approx(quantiles, rel=1e-4)
    matched = float((pair.argmin(1) == torch.arange(33)).double().mean())
    assert f"{matched:.0%} of 33 seeds" in result.findings[0].found
    assert "by chance 3.0%" in result.findings[0].found
    assert set(result.arrays) == {f"distance_{kind.replace(' ', '_')}" for kind in expected}


def test_models_that_copy_their_halves_and_models_that_do_not(tmp_path):
    copying, knowing = (split(*map(str, runs(tmp_path / kind, kind))) for kind in ("copies", "fresh"))
    assert [finding.held for finding in copying.findings] == [None, False, None, None]
    assert "0% of 40" in copying.findings[1].found
    for finding, name in zip(copying.findings[2:], ("first", "second"), strict=True):
        assert finding.claim.startswith(f"{name}, 50 training images")
        assert finding.found.startswith("100% (")
    assert [finding.held for finding in knowing.findings] == [None, True, None, None]
    assert "100% of 40" in knowing.findings[0].found
    assert "100% of 40" in knowing.findings[1].found


def test_command_takes_two_folders_and_writes(tmp_path, capsys):
    folders = runs(tmp_path, "fresh")
    main(["analyze", "split", *map(str, folders), "--out", str(tmp_path)])
    report = json.loads((tmp_path / "split.json").read_text())
    assert report["options"] == {"first": str(folders[0]), "second": str(folders[1]), "num_shown": 8}
    assert all((tmp_path / f"split.{suffix}").stat().st_size for suffix in ("csv", "png", "svg", "npz"))
    assert "that of the same seed is the nearest" in capsys.readouterr().out


def test_few_held_out_images_are_said(tmp_path):
    made = []
    for number, which in enumerate(("first", "second")):
        data = {"half": which, "num_train": 60, "num_test": 20}
        images = Emoji(image_size=16, **data).test.pixels
        made.append(str(write_run(tmp_path / which, noisy(images, number), data=data)))
    assert [finding.found for finding in split(*made).findings[2:]] == 2 * ["takes 30 held-out images, there are 20"]


def test_bad_input_is_named(tmp_path):
    one, two = map(str, runs(tmp_path, "copies"))
    with pytest.raises(UserError, match="first and first share 50 training images"):
        split(one, one)
    with pytest.raises(UserError, match=r"nowhere/config\.yaml does not exist"):
        split(one, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="num_shown is 0"):
        split(one, two, num_shown=0)
    late = str(runs(tmp_path / "late", "copies", first_seed=39)[1])
    with pytest.raises(UserError, match="first and second have 1 seeds in common"):
        split(one, late)
    images = noisy(half("second").train.pixels[:40, :, :8, :8], 0)
    small = str(write_run(tmp_path / "small", images, data={"half": "second", **HALF}))
    with pytest.raises(UserError, match=r"first draws images of shape \(3, 16, 16\), small of \(3, 8, 8\)"):
        split(one, small)
    other = str(write_run(tmp_path / "other", images, data={"half": "first", **HALF}))
    with pytest.raises(UserError, match=r"other: samples\.npz has rows of shape"):
        split(other, small)
    for content, culprit in (("a: [", "no readable YAML"), ("model: 1", "names no data")):
        (tmp_path / "second/config.yaml").write_text(content)
        with pytest.raises(UserError, match=culprit):
            split(one, two)
    (tmp_path / "first/samples.npz").unlink()
    with pytest.raises(UserError, match=r"samples\.npz does not exist"):
        split(one, two)
