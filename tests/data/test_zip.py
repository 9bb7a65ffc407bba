"""ImageFolder from a zip: the folder's images, nothing extracted."""

import io
import zipfile

import pytest
import torch
from PIL import Image

from smoothscore.data import ImageFolder
from smoothscore.errors import UserError


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def files(emoji, prefix=""):
    return {f"{prefix}{('cats', 'dogs')[row % 2]}/{row:02d}.png": png(emoji[row]) for row in range(12)}


def write_zip(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return str(path)


def write_folder(path, content):
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


@pytest.mark.parametrize("prefix", ["", "animals/"])
def test_a_zip_is_its_folder(tmp_path, emoji, prefix):
    hidden = {f"__MACOSX/{prefix}cats/._00.png": b"no image", f"{prefix}cats/.thumb.png": b"no image"}
    archive = write_zip(tmp_path / "a.zip", files(emoji, prefix) | hidden)
    folder = write_folder(tmp_path / "b", files(emoji) | {"cats/.thumb.png": b"no image"})
    one, other = (ImageFolder(root=root, num_test=4, batch_size=2) for root in (archive, folder))
    assert one.train.classes == ("cats", "dogs")
    for part in ("train", "test"):
        assert torch.equal(getattr(one, part).pixels, getattr(other, part).pixels)
        assert torch.equal(getattr(one, part).labels, getattr(other, part).labels)
    known = {(tuple(image.flatten().tolist()), row % 2) for row, image in enumerate(emoji[:12])}
    pixels, labels = (torch.cat(column) for column in zip(one.train[:2], one.test[:2], strict=True))
    rows = [(tuple(image.flatten().tolist()), label) for image, label in zip(pixels, labels.tolist(), strict=True)]
    assert len(rows) == 12
    assert set(rows) <= known


def test_names_that_point_outside_write_nothing(tmp_path, emoji):
    (tmp_path / "inner").mkdir()
    content = files(emoji) | {"../evil.png": png(emoji[0]), "/evil.png": png(emoji[1])}
    root = write_zip(tmp_path / "inner" / "a.zip", content)
    before = sorted(tmp_path.rglob("*"))
    data = ImageFolder(root=root, num_test=2, batch_size=2)
    assert len(data.train.pixels) + len(data.test.pixels) == 13
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_member_is_named_or_skipped(tmp_path, emoji, capsys):
    path = tmp_path / "a.zip"
    write_zip(path, files(emoji))
    data = bytearray(path.read_bytes())
    start = data.index(b"cats/04.png") + 200
    data[start : start + 20] = bytes(20)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"a.zip/cats/04.png cannot be read"):
        _ = ImageFolder(root=str(path), num_test=2).train
    images = ImageFolder(root=str(path), num_test=2, skip_bad=True)
    assert len(images.train.pixels) == 9
    assert "1 of 12 files left out as unreadable, the first of them cats/04.png" in capsys.readouterr().out


def test_no_zip(tmp_path, emoji):
    write_zip(tmp_path / "a.zip", files(emoji))
    cut = tmp_path / "cut.zip"
    cut.write_bytes((tmp_path / "a.zip").read_bytes()[:-40])
    with pytest.raises(UserError, match=r"cut\.zip is neither a folder nor a zip"):
        _ = ImageFolder(root=str(cut)).train
    with pytest.raises(UserError, match="holds no image file"):
        _ = ImageFolder(root=write_zip(tmp_path / "empty.zip", {"readme.txt": b""})).train
