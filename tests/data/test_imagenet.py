"""ImageNet 64 as the official batches and as folders."""

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data import ImageNet64
from smoothscore.errors import UserError

ROWS = np.random.default_rng(0).integers(0, 256, (11, 4, 12288), dtype=np.uint8)  # ten batches and the validation set
LABELS = np.random.default_rng(1).integers(1, 1001, (11, 4))
NAMES = [*(f"train_data_batch_{number}.npz" for number in range(1, 11)), "val_data.npz"]


def write_batches(folder, train="", val=""):
    for name, rows, labels in zip(NAMES, ROWS, LABELS, strict=True):
        place = folder / (val if name.startswith("val") else train)
        place.mkdir(parents=True, exist_ok=True)
        np.savez(place / name, data=rows, labels=labels, mean=rows.mean(0))


@pytest.mark.parametrize("folders", [("", ""), ("Imagenet64_train", "Imagenet64_val")])
def test_official_batches(tmp_path, folders):
    write_batches(tmp_path, *folders)
    data = ImageNet64(root=str(tmp_path), batch_size=4)
    planes = torch.from_numpy(ROWS).view(11, 4, 3, 64, 64)
    assert torch.equal(data.train.pixels, planes[:10].flatten(0, 1))  # batch 10 after batch 9
    assert torch.equal(data.test.pixels, planes[10])
    assert data.train.labels.tolist() == (LABELS[:10].flatten() - 1).tolist()
    assert data.train.classes[0] == "1"
    assert len(data.train.classes) == 1000


def write_images(folder, emoji, val="val"):
    for row in range(10):
        part, kind = ("train", val)[row > 5], ("n02", "n01")[row % 2]
        path = folder / part / kind / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(emoji[row].permute(1, 2, 0).numpy()).save(path)


def test_folders(tmp_path, emoji):
    write_images(tmp_path, emoji)
    data = ImageNet64(root=str(tmp_path), image_size=32, batch_size=4)
    assert torch.equal(data.train.pixels, emoji[[1, 3, 5, 0, 2, 4]])
    assert torch.equal(data.test.pixels, emoji[[7, 9, 6, 8]])
    assert data.train.classes == ("n01", "n02")
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": ROWS[0]}, "labels"),
        ({"data": ROWS[0][:, :100], "labels": LABELS[0]}, r"uint8 \[4, 100\]"),
        ({"data": ROWS[0].astype(np.float32), "labels": LABELS[0]}, "float32"),
        ({"data": ROWS[0], "labels": LABELS[0][:3]}, "3 labels"),
        ({"data": ROWS[0], "labels": LABELS[0] * 0}, "labels reach from 0 to 0"),
        (None, "not a zip file"),
    ],
)
def test_a_bad_batch_is_named_even_where_images_may_be_skipped(tmp_path, content, message):
    write_batches(tmp_path)
    path = tmp_path / "train_data_batch_7.npz"
    if content is None:
        path.write_bytes(path.read_bytes()[:-100])
    else:
        np.savez(path, **content)
    with pytest.raises(UserError, match=rf"train_data_batch_7.npz is no batch of .*{message}"):
        _ = ImageNet64(root=str(tmp_path), skip_bad=True).train


def test_another_layout(tmp_path, emoji):
    write_images(tmp_path / "images", emoji, val="test")
    with pytest.raises(UserError, match=r"expected train_data_batch_1.npz .*; found test/, train/"):
        _ = ImageNet64(root=str(tmp_path / "images")).train
    write_batches(tmp_path / "batches")
    (tmp_path / "batches" / "train_data_batch_4.npz").unlink()
    with pytest.raises(UserError, match=r"without a gap"):
        _ = ImageNet64(root=str(tmp_path / "batches")).train
    with pytest.raises(UserError, match=r"found nothing of that name"):
        _ = ImageNet64(root=str(tmp_path / "nowhere")).train


def test_a_class_that_training_lacks(tmp_path, emoji):
    write_images(tmp_path, emoji)
    (tmp_path / "val" / "n01").rename(tmp_path / "val" / "n09")
    with pytest.raises(UserError, match="val/ has the class n09"):
        _ = ImageNet64(root=str(tmp_path)).train


def test_a_size_above_that_of_the_batches(tmp_path):
    write_batches(tmp_path)
    with pytest.raises(UserError, match=r"image_size is 128.*size 64"):
        _ = ImageNet64(root=str(tmp_path), image_size=128).train
