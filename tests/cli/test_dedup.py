"""`smoothscore dedup` finds what was planted, and a training leaves it out."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.data.exclusion import Exclusion
from smoothscore.neighbors import NeighborTable

ROOT = Path(__file__).parents[2]
FAST = ROOT / "configs" / "experiment" / "emoji_fast.yaml"


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def planted():
    """200 emoji; after them 5 exact copies, 4 with noise, 3 mirrored, and a copy of a noisy one."""
    generator = torch.Generator().manual_seed(0)
    whole = Emoji(num_train=200, split_seed=3).train.pixels
    noisy = (whole[20:24] + 3 * torch.randn(4, 3, 32, 32, generator=generator)).clamp(0, 255).round().to(torch.uint8)
    images = torch.cat([whole, whole[[10, 11, 12, 13, 13]], noisy, whole[30:33].flip(-1), noisy[:1]])
    np.save("images.npy", images.numpy())
    held_out = Emoji(num_train=200, split_seed=3).test.pixels
    np.save("test.npy", held_out.numpy())
    return images


def data_options(**changes):
    options = {"images": "images.npy", "test_images": "test.npy", "batch_size": 8, **changes}
    return ["--data=Arrays", *(f"--data.{name}={value}" for name, value in options.items())]


def table(path):
    with Path(path).open(newline="") as file:
        return {int(row["row"]): row for row in csv.DictReader(file)}


def test_planted_duplicates_are_found_with_their_kind(planted, capsys):
    main(["dedup", *data_options(), "--pixels=0.02", "--features=0", "--out=d"])
    found = table("d/duplicates.csv")
    exact = {200: 10, 201: 11, 202: 12, 203: 13, 204: 13}
    near = {205: 20, 206: 21, 207: 22, 208: 23}
    for row, keep in (exact | near).items():
        assert int(found[row]["keep"]) == keep
        assert found[row]["kind"] == ("exact" if row in exact else "pixels")
        assert float(found[row]["distance"]) == (0 if row in exact else pytest.approx(3 / 255, rel=0.2))
    assert int(found[212]["keep"]) == 20  # equals row 205, which is near row 20
    assert found[212]["kind"] == "exact"
    assert found[212]["direct"] == "True"
    assert not {209, 210, 211} & set(found)
    summary = json.loads(Path("d/duplicates.json").read_text())
    assert summary["counts"]["exact"] == 6
    assert Exclusion.load(Path("d/exclude.json")).rows.tolist() == sorted(found)
    assert torch.equal(Exclusion.load(Path("d/exclude.csv")).rows, Exclusion.load(Path("d/exclude.json")).rows)
    page = Path("d/duplicates.html").read_text()
    assert page.count('class="keep"') == summary["clusters"]
    assert "by way of others" not in capsys.readouterr().out
    main(["dedup", *data_options(), "--pixels=0.02", "--features=0", "--flips", "--out=f"])
    mirrored = table("f/duplicates.csv")
    assert {int(mirrored[row]["keep"]) for row in (209, 210, 211)} == {30, 31, 32}


def test_features_find_what_pixels_miss(planted):
    """A brighter copy is far in pixels and near in features."""
    images = planted[:60].clone()
    bright = (images[:6].float() * 0.93).round().to(torch.uint8)
    np.save("images.npy", torch.cat([images, bright]).numpy())
    main(["dedup", "images.npy", "--pixels=0.01", "--features=0.3", "--out=d"])
    found = table("d/duplicates.csv")
    by_features = [row for row in range(60, 66) if row in found and found[row]["kind"] == "features"]
    assert len(by_features) >= 4
    assert all(int(found[row]["keep"]) == row - 60 for row in by_features)
    assert all(float(found[row]["distance"]) > 0.01 for row in by_features)


def test_a_training_leaves_the_list_out(planted):
    main(["dedup", *data_options(), "--pixels=0.02", "--extractor=null", "--out=d"])
    excluded = len(Exclusion.load(Path("d/exclude.json")).rows)
    main(["neighbors", "build", *data_options(k=3, exclude="d/exclude.json"), "--out=t"])
    table = NeighborTable.load("t")
    assert len(table) == len(planted) - excluded
    assert table.describe().duplicates == 0
    training = {"class_path": "Arrays", "init_args": {"images": "images.npy", "test_images": "test.npy",
                "num_train": None, "num_test": None,
                "image_size": 32, "exclude": "d/exclude.json", "batch_size": 8, "k": 3}}  # fmt: skip
    Path("data.yaml").write_text(yaml.safe_dump({"data": training}))
    network = ["--model.init_args.network.init_args.image_size=32", "--trainer.fast_dev_run=1"]
    main(["fit", "--config", str(FAST), "--config=data.yaml", *network, "--trainer.enable_progress_bar=false"])


def test_a_list_of_other_data_is_refused(planted, capsys):
    main(["dedup", *data_options(), "--extractor=null", "--out=d"])
    args = ["neighbors", "build", "--data=Emoji", "--data.k=3", "--data.exclude=d/exclude.json"]
    with pytest.raises(SystemExit):
        main(args)
    assert "exclude.json belongs to another data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "culprit"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "name the training images with --data or with a path"),
        (["one.npy"], "at least 2 needed"),
        (["images.npy", "--pixels=-1"], "pixel_threshold is -1"),
        (["images.npy", "--pixels=2"], "more than 200 pairs per row"),
    ],
)
def test_bad_input_is_named(planted, capsys, args, culprit):
    np.save("one.npy", np.zeros((1, 3, 8, 8), np.uint8))
    if "--pixels=2" in args:
        np.save("images.npy", torch.cat([planted, 255 - planted, planted.flip(-2)]).numpy())
    with pytest.raises(SystemExit) as exit_:
        main(["dedup", *args, "--extractor=null"])
    assert exit_.value.code not in (0, None)
    printed = capsys.readouterr().err
    assert culprit in printed
    assert "Traceback" not in printed
