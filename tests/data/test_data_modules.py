import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data import Arrays, Emoji, ImageFolder
from smoothscore.data.folder import decode_image
from smoothscore.errors import UserError
from smoothscore.functional.rows import unique_rows


@pytest.fixture
def folder(tmp_path, emoji):
    """Twelve images in two classes."""
    for i in range(12):
        path = tmp_path / "data" / ("cats" if i % 2 else "dogs") / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(emoji[i].permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "data"


def test_emoji_has_no_repeats_and_a_disjoint_test_set(emoji):
    data = Emoji(batch_size=4)
    rows = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    assert len(rows) == 1407 == len(rows.unique(dim=0))
    assert len(data.test.pixels) == 256
    assert len(unique_rows(emoji)) == 1407


def test_emoji_subset_size_categories_and_resolution():
    data = Emoji(
        num_train=20, num_test=10, categories=["Food & Drink"], image_size=16, batch_size=4, k=5, cache_dir=None
    )
    data.setup()
    assert data.image_shape == (3, 16, 16)
    assert len(data.train.pixels) == 20
    assert set(data.train.labels.tolist()) == {data.train.classes.index("Food & Drink")}
    assert data.table.indices.shape == (20, 5)
    index = torch.tensor([3, 7])
    gathered = data.neighbors.images(index)
    assert torch.equal(gathered[:, 0], data.train.pixels[index].float() / 255)


def test_emoji_subset_is_the_same_in_every_run():
    one, other = (Emoji(num_train=20, num_test=10, image_size=8, batch_size=4) for _ in range(2))
    assert torch.equal(one.train.pixels, other.train.pixels)


def test_folder_reads_classes_in_sorted_order(folder, emoji):
    data = ImageFolder(root=str(folder), image_size=32, batch_size=2, num_test=4)
    assert data.train.classes == ("cats", "dogs")
    assert len(data.train.pixels) == 8
    stored = {tuple(row) for row in torch.cat([data.train.pixels, data.test.pixels]).flatten(1)[:, :50].tolist()}
    assert stored == {tuple(row) for row in emoji[:12].flatten(1)[:, :50].tolist()}


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path, emoji, mode):
    image = Image.fromarray(emoji[3].permute(1, 2, 0).numpy())
    if mode == "I;16":
        gray = np.array(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(gray).save(tmp_path / "x.png")
        expected = torch.from_numpy(np.array(image.convert("L"))).expand(3, 32, 32)
    else:
        suffix = "tif" if mode == "CMYK" else "png"
        image.convert(mode).save(tmp_path / f"x.{suffix}")
        expected = torch.from_numpy(np.array(image.convert(mode).convert("RGB"))).permute(2, 0, 1)
    decoded = decode_image(next(tmp_path.iterdir()), 32)
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, expected)


def test_transparent_pixels_are_white(tmp_path):
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert (decode_image(tmp_path / "x.png", 8) == 255).all()


def test_float_files_are_images(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    np.save(tmp_path / "x.npy", values)
    Image.fromarray(values).save(tmp_path / "x.tif")
    expected = torch.from_numpy((values * 255).round()).to(torch.uint8).expand(3, 8, 8)
    assert torch.equal(decode_image(tmp_path / "x.npy", 8), expected)
    assert torch.equal(decode_image(tmp_path / "x.tif", 8), expected)


def bad_png(folder):
    (folder / "cats" / "bad.png").write_bytes(b"no image")
    return "bad.png"


def truncated(folder):
    path = folder / "cats" / "01.png"
    path.write_bytes(path.read_bytes()[:-300])
    return "01.png"


def nan_array(folder):
    array = np.zeros((8, 8), np.float32)
    array[2, 3] = np.nan
    np.save(folder / "dogs" / "nan.npy", array)
    return "nan.npy"


def nan_tiff(folder):
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(folder / "dogs" / "nan.tiff")
    return "nan.tiff"


def out_of_range(folder):
    np.save(folder / "dogs" / "wide.npy", np.full((8, 8), 200.0))
    return "wide.npy"


def pickled(folder):
    np.save(folder / "dogs" / "object.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    return "object.npy"


@pytest.mark.parametrize("spoil", [bad_png, truncated, nan_array, nan_tiff, out_of_range, pickled])
def test_a_bad_file_is_named_or_skipped(folder, spoil, capsys):
    name = spoil(folder)
    with pytest.raises(UserError, match=name):
        _ = ImageFolder(root=str(folder), num_test=2, image_size=8).train
    data = ImageFolder(root=str(folder), num_test=2, image_size=8, skip_bad=True)
    assert len(data.train.pixels) + len(data.test.pixels) == (11 if spoil is truncated else 12)
    assert name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: ImageFolder(root=str(path / "nowhere")), "nowhere does not exist"),
        (lambda path: ImageFolder(root=str(path)), "holds no image file"),
        (lambda path: Emoji(num_train=8, num_test=8, batch_size=64), "batch_size is 64, but Emoji has only 8"),
        (lambda path: Emoji(num_train=8, num_test=8, batch_size=4, k=8), "8"),
        (lambda path: Emoji(num_train=1400, num_test=200), "num_train = 1400"),
        (lambda path: Emoji(categories=["Flags"]), "Flags"),
    ],
)
def test_bad_data_is_an_error_before_training(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path).setup("fit")


@pytest.mark.parametrize("image_size", [4, 64])
def test_emoji_sizes(image_size):
    with pytest.raises(UserError, match=str(image_size)):
        Emoji(image_size=image_size)


def test_class_restricted_needs_labels_that_differ(emoji, tmp_path):
    data = Arrays(
        images=emoji[:20], test_images=emoji[20:30], k=3, class_restricted=True, batch_size=4, cache_dir=tmp_path
    )
    with pytest.raises(UserError, match="no labels that differ"):
        data.setup("fit")
