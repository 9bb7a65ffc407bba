"""Excluded rows are in no batch and no neighbor table; a list serves the data set that it was made for, only."""

import json

import pytest
import torch

from smoothscore.data import Emoji
from smoothscore.data import exclusion as exclusion_module
from smoothscore.data.exclusion import Exclusion
from smoothscore.errors import UserError
from smoothscore.neighbors.digests import digest_tensor

SMALL = {"num_train": 40, "num_test": 10, "image_size": 8, "batch_size": 4}


def rows_of(pixels):
    return {tuple(row) for row in pixels.flatten(1).tolist()}


@pytest.fixture
def whole():
    return Emoji(**SMALL).train


def save(path, train, rows):
    Exclusion(digest_tensor(train.pixels), len(train.pixels), torch.tensor(rows)).save(path)
    return str(path)


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_a_list_comes_back_as_it_was(tmp_path, whole, suffix):
    path = tmp_path / f"list.{suffix}"
    for rows in ([3, 7, 20], []):
        save(path, whole, rows)
        found = Exclusion.load(path)
        assert found.rows.tolist() == rows
        assert (found.num_rows, found.data) == (40, digest_tensor(whole.pixels))


@pytest.mark.parametrize("suffix", ["json", "csv"])
def test_excluded_rows_are_left_out_everywhere(tmp_path, whole, suffix):
    excluded = [0, 13, 39]
    data = Emoji(**SMALL, k=5, exclude=save(tmp_path / f"list.{suffix}", whole, excluded))
    data.setup()
    assert data.train_rows.tolist() == [row for row in range(40) if row not in excluded]
    assert torch.equal(data.train.pixels, whole.pixels[data.train_rows])
    assert torch.equal(data.train.labels, whole.labels[data.train_rows])
    gone = rows_of(whole.pixels[excluded])
    seen = set()
    for batch in data.train_dataloader():
        seen |= rows_of(batch.image)
        assert torch.equal(batch.image, data.train.pixels[batch.index])
    assert seen == rows_of(data.train.pixels)
    assert not seen & gone
    assert data.table.indices.shape == (37, 5)
    neighbors = data.neighbors.images(torch.arange(37))
    assert not rows_of((neighbors.flatten(0, 1) * 255).round().to(torch.uint8)) & gone
    assert torch.equal(Emoji(**SMALL).test.pixels, data.test.pixels)


def test_large_sets_are_mapped_from_disk(tmp_path, whole, monkeypatch):
    path = save(tmp_path / "list.json", whole, [1, 2])
    expected = Emoji(**SMALL, exclude=path).train.pixels
    monkeypatch.setattr(exclusion_module, "_IN_MEMORY", 0)
    monkeypatch.setattr(exclusion_module, "_BLOCK", 1000)
    mapped = Emoji(**SMALL, exclude=path)
    assert torch.equal(mapped.train.pixels, expected)
    assert list(mapped.cache_dir.glob("kept-*/pixels.npy"))


def test_without_a_list_all_rows_stay(whole):
    assert torch.equal(Emoji(**SMALL).train_rows, torch.arange(40))


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def test_a_foreign_or_damaged_list_is_refused(tmp_path, whole):
    good = save(tmp_path / "good.json", whole, [1, 2])
    with pytest.raises(UserError, match=r"good\.json belongs to another data set"):
        _ = Emoji(**{**SMALL, "split_seed": 1}, exclude=good).train
    with pytest.raises(UserError, match="belongs to another data set of 40 images"):
        _ = Emoji(**{**SMALL, "num_train": 41}, exclude=good).train
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        _ = Emoji(**SMALL, exclude=str(tmp_path / "nowhere.json")).train
    content = json.loads((tmp_path / "good.json").read_text())
    for change, message in (
        ({"rows": [1, 40]}, "excludes row 40"),
        ({"rows": [1.5]}, "no row number"),
        ({"format": "other"}, "its format is"),
    ):
        with pytest.raises(UserError, match=message):
            _ = Emoji(**SMALL, exclude=write(tmp_path / "bad.json", {**content, **change})).train
    (tmp_path / "bad.json").write_text("[")
    with pytest.raises(UserError, match="no exclusion list"):
        _ = Emoji(**SMALL, exclude=str(tmp_path / "bad.json")).train
    (tmp_path / "bad.csv").write_text("row,num_rows,data\n1,40,x\n")
    with pytest.raises(UserError, match="no exclusion list"):
        _ = Emoji(**SMALL, exclude=str(tmp_path / "bad.csv")).train
    with pytest.raises(UserError, match="leaves 1 of 40"):
        _ = Emoji(**SMALL, exclude=save(tmp_path / "all.json", whole, list(range(39)))).train
