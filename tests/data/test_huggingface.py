"""Data sets of `datasets`, of which a stand-in holds what is used."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image

from smoothscore.data import HuggingFace
from smoothscore.errors import UserError


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


class Table:
    """A split: rows, features, the files behind it; images come encoded once the column is cast."""

    def __init__(self, rows, file, encoded=False):
        self.rows, self.file, self.encoded = rows, file, encoded
        self.features = {"picture": object(), "kind": SimpleNamespace(names=["animal", "plant", "food"])}
        self.cache_files = [{"filename": str(file)}]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        assert self.encoded, "images must come encoded, so that there is one decoder"
        return self.rows[row]

    def cast_column(self, column, feature):
        assert (column, feature.decode) == ("picture", False)
        return Table(self.rows, self.file, encoded=True)


@pytest.fixture
def splits(tmp_path, emoji, monkeypatch):
    """What the stand-in loads, from a folder or by a name; the images of one row lie in a file of their own."""
    (tmp_path / "a.arrow").write_bytes(b"arrow")
    (tmp_path / "saved").mkdir()
    (tmp_path / "0.png").write_bytes(png(emoji[0]))
    rows = [{"picture": {"bytes": png(emoji[row]), "path": None}, "kind": row % 3} for row in range(12)]
    rows[0]["picture"] = {"bytes": None, "path": str(tmp_path / "0.png")}
    loaded = {name: Table(part, tmp_path / "a.arrow") for name, part in (("train", rows[:8]), ("held", rows[8:]))}
    module = ModuleType("datasets")

    def load_from_disk(path):
        assert path == str(tmp_path / "saved")
        return loaded

    def load_dataset(name):
        if name != "some/name":
            raise FileNotFoundError(f"{name} is not on the hub")
        return loaded

    module.load_from_disk, module.load_dataset = load_from_disk, load_dataset
    module.Image = lambda decode: SimpleNamespace(decode=decode)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return loaded


COLUMNS = {"image_column": "picture", "label_column": "kind", "batch_size": 2}


def test_splits_columns_and_class_names(splits, tmp_path, emoji):
    for root in (str(tmp_path / "saved"), "some/name"):
        data = HuggingFace(root=root, test_split="held", **COLUMNS)
        assert torch.equal(data.train.pixels, emoji[:8])
        assert torch.equal(data.test.pixels, emoji[8:12])
        assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
        assert data.train.classes == ("animal", "plant", "food")


def test_a_part_is_held_out_and_labels_are_not_needed(splits, emoji):
    data = HuggingFace(root="some/name", num_test=3, **(COLUMNS | {"label_column": None}))
    rows = torch.cat([data.train.pixels, data.test.pixels]).flatten(1)
    assert (len(data.train.pixels), len(data.test.pixels)) == (5, 3)
    assert torch.equal(rows.unique(dim=0), emoji[:8].flatten(1).unique(dim=0))
    assert data.train.labels.tolist() == [0] * 5


def no_image(rows):
    rows[5]["picture"] = None


def no_picture(rows):
    rows[5]["picture"]["bytes"] = b"no image"


def no_label(rows):
    rows[5]["kind"] = None


@pytest.mark.parametrize("spoil", [no_image, no_picture, no_label])
def test_a_bad_row_is_named_or_skipped(splits, capsys, spoil):
    spoil(splits["train"].rows)
    with pytest.raises(UserError, match="some/name/train/5"):
        _ = HuggingFace(root="some/name", test_split="held", **COLUMNS).train
    data = HuggingFace(root="some/name", test_split="held", skip_bad=True, **COLUMNS)
    assert len(data.train.pixels) == 7
    assert "1 of 12 files left out as unreadable, the first of them train/5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "other/name"}, "other/name cannot be loaded.*not on the hub"),
        ({"train_split": "all"}, r"no split 'all'; it has \['held', 'train'\]"),
        ({"test_split": "test"}, r"no split 'test'"),
        ({"image_column": "image"}, r"no column 'image'; it has \['kind', 'picture'\]"),
        ({"label_column": "label"}, "no column 'label'"),
    ],
)
def test_what_is_not_there(splits, options, message):
    with pytest.raises(UserError, match=message):
        _ = HuggingFace(**({"root": "some/name"} | COLUMNS | options)).train


def test_datasets_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what makes an import fail
    with pytest.raises(UserError, match=r"pip install 'smoothscore\[hf\]'"):
        _ = HuggingFace(root="some/name").train
