"""Arrays as tensors and as .npy files."""

import numpy as np
import pytest
import torch

from smoothscore.data import Arrays
from smoothscore.errors import UserError


def test_tensors_are_taken_as_they_are(emoji, emoji_labels):
    options = {"test_images": emoji[20:30], "test_labels": emoji_labels[20:30]}
    data = Arrays(images=emoji[:20], labels=emoji_labels[:20], **options, batch_size=4, k=3)
    data.setup()
    assert torch.equal(data.train.pixels, emoji[:20])
    assert torch.equal(data.train.labels, emoji_labels[:20])
    assert torch.equal(data.test.pixels, emoji[20:30])
    assert torch.equal(data.neighbors.images(torch.tensor([4]))[0, 0], emoji[4] / 255)


def test_float_arrays_keep_their_values():
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = Arrays(images=images, image_size=4, num_test=5, batch_size=4)
    rows = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    assert torch.equal(rows[rows[:, 0].argsort()], images.flatten(1)[images[:, 0, 0, 0].argsort()])


def test_npy_files_are_mapped(tmp_path, emoji, emoji_labels):
    np.save(tmp_path / "x.npy", emoji[:20].numpy())
    np.save(tmp_path / "y.npy", emoji_labels[:20].numpy().astype(np.int32))
    np.save(tmp_path / "test.npy", emoji[20:25].numpy())
    paths = {name: str(tmp_path / file) for name, file in (("images", "x.npy"), ("labels", "y.npy"))}
    data = Arrays(**paths, test_images=str(tmp_path / "test.npy"), batch_size=4)
    assert torch.equal(data.train.pixels, emoji[:20])
    assert torch.equal(data.train.labels, emoji_labels[:20])
    assert torch.equal(data.test.pixels, emoji[20:25])
    data.train.pixels.zero_()
    assert np.array_equal(np.load(tmp_path / "x.npy"), emoji[:20].numpy())


def with_value(value):
    images = torch.zeros(10, 1, 32, 32)
    images[7, 0, 3, 4] = value
    return images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": with_value(float("nan"))}, "row 7 of images holds NaN"),
        ({"images": with_value(1.5)}, "row 7 of images holds NaN or values outside"),
        ({"images": torch.zeros(10, 1, 16, 16)}, r"\[10, 1, 16, 16\].*set data.init_args.image_size"),
        ({"images": torch.zeros(10, 32, 32)}, r"shape \[10, 32, 32\]"),
        ({"images": torch.zeros(10, 1, 32, 32, dtype=torch.int64)}, "torch.int64, expected uint8"),
        ({"images": torch.zeros(10, 1, 32, 32), "labels": torch.zeros(9, dtype=torch.int64)}, r"int64 \[9\]"),
        ({"images": torch.zeros(10, 1, 32, 32), "labels": torch.zeros(10)}, "expected integers"),
        ({"images": "nowhere.npy"}, "nowhere.npy, given as images"),
        ({"images": torch.zeros(10, 1, 32, 32), "num_train": 9, "num_test": 2}, "There are 10 images"),
    ],
)
def test_bad_arrays(options, message):
    with pytest.raises(UserError, match=message):
        _ = Arrays(**options).train


def test_a_file_that_is_no_array(tmp_path):
    (tmp_path / "x.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"x\.npy, given as images, is no .npy array"):
        _ = Arrays(images=str(tmp_path / "x.npy")).train
    np.save(tmp_path / "y.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"y\.npy, given as images, is no .npy array"):
        _ = Arrays(images=str(tmp_path / "y.npy")).train
