"""Two disjoint halves of the training images, for the two-split test."""

import pytest
import torch

from smoothscore.data import Emoji
from smoothscore.data.exclusion import Exclusion
from smoothscore.errors import UserError
from smoothscore.neighbors.digests import digest_tensor

SMALL = {"image_size": 8, "num_train": 41, "num_test": 20, "batch_size": 4}


def test_halves_are_disjoint_and_share_the_held_out_images():
    whole, first, second = Emoji(**SMALL), Emoji(**SMALL, half="first"), Emoji(**SMALL, half="second")
    rows = [set(data.train_rows.tolist()) for data in (first, second)]
    assert [len(part) for part in rows] == [20, 20]
    assert not rows[0] & rows[1]
    for data in (first, second):
        assert torch.equal(data.train.pixels, whole.train.pixels[data.train_rows])
        assert torch.equal(data.train.labels, whole.train.labels[data.train_rows])
        assert torch.equal(data.test.pixels, whole.test.pixels)
    assert torch.equal(first.train_rows, Emoji(**SMALL, half="first").train_rows)
    assert not torch.equal(first.train_rows, torch.arange(20))  # dealt at random, since rows may be sorted by kind


def test_rows_left_out_are_left_out_of_both_halves(tmp_path):
    pixels = Emoji(**SMALL).train.pixels
    path = tmp_path / "list.json"
    Exclusion(digest_tensor(pixels), 41, torch.tensor([3, 30])).save(path)
    parts = [Emoji(**SMALL, exclude=str(path), half=half) for half in ("first", "second")]
    rows = torch.cat([data.train_rows for data in parts])
    assert len(rows) == len(rows.unique()) == 38
    assert not {3, 30} & set(rows.tolist())
    for data in parts:
        assert torch.equal(data.train.pixels, pixels[data.train_rows])


def test_too_few_images_for_a_half():
    with pytest.raises(UserError, match="half is first, but Emoji has 3 images"):
        _ = Emoji(**{**SMALL, "num_train": 3}, half="first").train
