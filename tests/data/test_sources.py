"""Images of any origin come in as they are; work in blocks goes on where it was killed."""

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data.resumable import Column, fill_rows
from smoothscore.data.sources import open_images
from smoothscore.errors import UserError


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def test_a_folder_an_npy_and_an_npz_hold_the_same_images(tmp_path, cache, emoji):
    images = emoji[:6]
    for i, image in enumerate(images):
        write_png(tmp_path / "pngs" / f"{i}.png", image)
    np.save(tmp_path / "first.npy", images.numpy())
    np.save(tmp_path / "last.npy", images.permute(0, 2, 3, 1).contiguous().numpy())
    np.savez_compressed(tmp_path / "named.npz", images=images.numpy(), labels=np.zeros(6))
    np.savez(tmp_path / "only.npz", images.permute(0, 2, 3, 1).numpy())
    for name in ("pngs", "first.npy", "last.npy", "named.npz", "only.npz"):
        found = open_images(tmp_path / name, cache_dir=cache)
        assert torch.equal(found.pixels, images), name
    assert open_images(tmp_path / "pngs", cache_dir=cache).name(3) == "3.png"
    assert open_images(tmp_path / "first.npy", cache_dir=cache).name(3) == "3"
    resized = open_images(tmp_path / "pngs", cache_dir=cache, resize=16)
    assert resized.pixels.shape == (6, 3, 16, 16)


def test_unclamped_floats_stay_as_they_are(tmp_path, cache):
    x = torch.linspace(-0.2, 1.2, 2 * 3 * 8 * 8).view(2, 3, 8, 8)
    np.save(tmp_path / "x.npy", x.numpy())
    assert torch.equal(open_images(tmp_path / "x.npy", cache_dir=cache).pixels, x)


def arrays(path, case):
    x = np.random.default_rng(0).random((4, 3, 8, 8)).astype(np.float32)
    spoiled = {
        "nan": lambda: x.__setitem__((2, 0, 0, 0), np.nan),
        "wide": lambda: x.__setitem__((3, 0), -1.0),
    }
    if case in spoiled:
        spoiled[case]()
    np.save(path, {"flat": x[0], "sides": x[:, :, :3, :3], "int": np.ones_like(x, dtype=np.int64)}.get(case, x))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("nan", r"Row 2 of .*x\.npy holds NaN"),
        ("wide", r"Row 3 of .*x\.npy holds values from -1"),
        ("flat", r"has shape \[3, 8, 8\]"),
        ("sides", "channels"),
        ("int", "int64"),
    ],
)
def test_a_bad_array_is_named(tmp_path, cache, case, message):
    arrays(tmp_path / "x.npy", case)
    with pytest.raises(UserError, match=message):
        open_images(tmp_path / "x.npy", cache_dir=cache)


def test_bad_folders_are_named(tmp_path, cache, emoji):
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_images(tmp_path / "nowhere", cache_dir=cache)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no image file"):
        open_images(tmp_path / "empty", cache_dir=cache)
    for name, image in (("a", emoji[0]), ("b", emoji[1][:, :16, :16])):
        write_png(tmp_path / "mixed" / f"{name}.png", image)
    with pytest.raises(UserError, match=r"b\.png is 16×16, but 32×32"):
        open_images(tmp_path / "mixed", cache_dir=cache)
    write_png(tmp_path / "wide" / "a.png", emoji[0][:, :16])
    with pytest.raises(UserError, match=r"a\.png is 32×16"):
        open_images(tmp_path / "wide", cache_dir=cache)
    np.savez(tmp_path / "many.npz", a=np.zeros(3), b=np.zeros(3))
    with pytest.raises(UserError, match=r"a\.npy, b\.npy"):
        open_images(tmp_path / "many.npz", cache_dir=cache)
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.raises(UserError, match=r"bad\.npy cannot be read"):
        open_images(tmp_path / "bad.npy", cache_dir=cache)


class KilledError(Exception):
    pass


def test_killed_work_goes_on_after_its_last_block(tmp_path):
    asked = []

    def compute(rows, until=10**9):
        if rows.start >= until:
            raise KilledError
        asked.append(rows.start)
        index = torch.arange(rows.start, rows.stop)
        return {"square": index**2, "pair": torch.stack([index, -index], 1).float()}

    columns = {"square": Column(torch.int64), "pair": Column(torch.float32, (2,))}
    options = {"block": 7, "progress": "test"}
    with pytest.raises(KilledError):
        fill_rows(tmp_path / "w", {"a": 1}, columns, 30, lambda rows: compute(rows, 14), **options)
    found = fill_rows(tmp_path / "w", {"a": 1}, columns, 30, compute, **options)
    assert asked == [0, 7, 14, 21, 28]
    assert torch.equal(found["square"], torch.arange(30) ** 2)
    assert torch.equal(found["pair"][:, 1], -torch.arange(30.0))
    fill_rows(tmp_path / "w", {"a": 1}, columns, 30, compute, **options)
    assert len(asked) == 5
    with pytest.raises(UserError, match="stale: it holds work for other a, b"):
        fill_rows(tmp_path / "w", {"a": 2, "b": 1}, columns, 30, compute, **options)
    (tmp_path / "w" / "progress.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        fill_rows(tmp_path / "w", {"a": 1}, columns, 30, compute, **options)
