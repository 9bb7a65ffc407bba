"""CelebA and CelebA-HQ in the layouts they are distributed in."""

import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data import CelebA64, CelebAHQ256
from smoothscore.errors import UserError

PARTS = [0, 0, 1, 2, 0, 2, 0, 1, 2, 0]


def aligned(folder, count=10, size=(178, 218)):
    """Aligned faces as JPEG: smooth, and each another."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(1, count + 1):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 7, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number:06d}.jpg", quality=95)


def face(path, size=64):
    """The face in one file: columns 19 to 158 and rows 39 to 178, of which there are 140 each."""
    pixels = np.array(Image.open(path))[39:179, 19:159]
    small = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def faces(folder, numbers):
    return torch.stack([face(folder / f"{number:06d}.jpg") for number in numbers])


def write_partition(path):
    path.parent.mkdir(exist_ok=True)
    lines = [f"{number:06d}.jpg {part}" for number, part in enumerate(PARTS, 1)]
    if path.suffix == ".csv":
        lines = ["image_id,partition", *(line.replace(" ", ",") for line in lines)]
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    "partition", ["list_eval_partition.txt", "list_eval_partition.csv", "Eval/list_eval_partition.txt"]
)
@pytest.mark.parametrize("nested", ["img_align_celeba", "img_align_celeba/img_align_celeba"])
@pytest.mark.parametrize("root", ["data", "data/img_align_celeba"])
def test_official_parts_of_the_central_square(tmp_path, partition, nested, root):
    aligned(tmp_path / "data" / nested)
    write_partition(tmp_path / "data" / partition)
    data = CelebA64(root=str(tmp_path / root), batch_size=2)
    assert data.image_shape == (3, 64, 64)
    assert torch.equal(data.train.pixels, faces(tmp_path / "data" / nested, [1, 2, 5, 7, 10]))
    assert torch.equal(data.test.pixels, faces(tmp_path / "data" / nested, [4, 6, 9]))


def zip_folder(folder, archive, extra=()):
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")
        for path in extra:
            file.write(path, path.name)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("root", ["data", "data/img_align_celeba.zip"])
def test_zip(tmp_path, inside, root):
    images, partition = tmp_path / "img_align_celeba", tmp_path / "data" / "list_eval_partition.txt"
    aligned(images)
    write_partition(partition)
    zip_folder(images, tmp_path / "data" / "img_align_celeba.zip", [partition] if inside else [])
    if inside:
        partition.unlink()
    data = CelebA64(root=str(tmp_path / root), batch_size=2)
    assert torch.equal(data.train.pixels, faces(images, [1, 2, 5, 7, 10]))
    assert [path.name for path in (tmp_path / "data").iterdir() if path != partition] == ["img_align_celeba.zip"]


def test_without_a_partition_some_are_held_out(tmp_path):
    aligned(tmp_path / "img_align_celeba")
    data = CelebA64(root=str(tmp_path), num_train=5, num_test=3, image_size=16, batch_size=2)
    assert (len(data.train.pixels), len(data.test.pixels)) == (5, 3)
    rows = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    known = torch.stack([face(path, 16) for path in sorted((tmp_path / "img_align_celeba").iterdir())]).flatten(1)
    assert len(rows.unique(dim=0)) == 8
    assert (rows[:, None] == known).all(2).any(1).all()


def missing_image(folder):
    (folder / "img_align_celeba" / "000003.jpg").unlink()


def extra_image(folder):
    (folder / "img_align_celeba" / "000011.jpg").write_bytes(b"")


def bad_line(folder):
    (folder / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 7\n")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (missing_image, "image 000003 is missing, although listed"),
        (extra_image, "image 000011 is not listed"),
        (bad_line, "line 2: expected an image and its part 0, 1 or 2"),
    ],
)
def test_partition_and_images_belong_together(tmp_path, spoil, message):
    aligned(tmp_path / "img_align_celeba")
    write_partition(tmp_path / "list_eval_partition.txt")
    spoil(tmp_path)
    with pytest.raises(UserError, match=message):
        _ = CelebA64(root=str(tmp_path)).train


def test_images_that_are_not_aligned(tmp_path):
    aligned(tmp_path / "img_align_celeba", size=(64, 64))
    with pytest.raises(UserError, match=r"0000..\.jpg cannot be read.*64×64, expected at least 140×140"):
        _ = CelebA64(root=str(tmp_path)).train


@pytest.mark.parametrize("data", [CelebA64, CelebAHQ256])
def test_another_layout(tmp_path, data):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "readme.txt").write_text("")
    with pytest.raises(UserError, match=r"expected .*; found annotations/, readme\.txt"):
        _ = data(root=str(tmp_path)).train


def test_damaged_images_are_counted(tmp_path, capsys):
    aligned(tmp_path / "img_align_celeba")
    (tmp_path / "img_align_celeba" / "000004.jpg").write_bytes(b"\xff\xd8 no image")
    data = CelebA64(root=str(tmp_path), skip_bad=True)
    assert len(data.train.pixels) + len(data.test.pixels) == 9
    assert "1 of 10 files left out as unreadable, the first of them 000004.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("zipped", [False, True])
def test_celeba_hq(tmp_path, zipped):
    folder = tmp_path / "CelebA-HQ-img"
    folder.mkdir()
    generator = np.random.default_rng(0)
    known = set()
    for number in range(6):
        pixels = np.repeat(np.repeat(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8), 16, 0), 16, 1)
        Image.fromarray(pixels).save(folder / f"{number:05d}.png")
        known.add(pixels.transpose(2, 0, 1).tobytes())
    if zipped:
        zip_folder(folder, tmp_path / "hq.zip")
    data = CelebAHQ256(root=str(tmp_path / "hq.zip" if zipped else folder), num_test=2, batch_size=2)
    assert data.image_shape == (3, 256, 256)
    assert {image.numpy().tobytes() for part in (data.train, data.test) for image in part.pixels} == known
