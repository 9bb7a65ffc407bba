"""Data sets of `datasets`, as `save_to_disk` writes them."""

import io
import sys

import datasets
import pytest
import torch
from PIL import Image

from smoothscore.data import HuggingFace
from smoothscore.errors import UserError

COLUMNS = {"image_column": "picture", "label_column": "kind", "batch_size": 2}
FEATURES = datasets.Features(
    {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["animal", "plant", "food"])}
)


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def rows(tmp_path, emoji):
    """Twelve rows; the image of the first lies in a file of its own."""
    (tmp_path / "0.png").write_bytes(png(emoji[0]))
    rows = [{"picture": {"bytes": png(emoji[row]), "path": None}, "kind": row % 3} for row in range(12)]
    rows[0]["picture"] = str(tmp_path / "0.png")
    return rows


@pytest.fixture
def save(rows, tmp_path):
    """Write the rows as they are now: a folder of two splits."""

    def written():
        parts = {"train": rows[:8], "held": rows[8:]}
        splits = {name: datasets.Dataset.from_list(part, features=FEATURES) for name, part in parts.items()}
        datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
        return str(tmp_path / "saved")

    return written


def test_splits_columns_and_class_names(save, emoji):
    data = HuggingFace(root=save(), test_split="held", **COLUMNS)
    assert torch.equal(data.train.pixels, emoji[:8])
    assert torch.equal(data.test.pixels, emoji[8:12])
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert data.train.classes == ("animal", "plant", "food")


def test_a_single_split(rows, tmp_path, emoji):
    datasets.Dataset.from_list(rows, features=FEATURES).save_to_disk(str(tmp_path / "saved"))
    data = HuggingFace(root=str(tmp_path / "saved"), num_test=3, **COLUMNS)
    assert (len(data.train.pixels), len(data.test.pixels)) == (9, 3)


def test_a_part_is_held_out_and_labels_are_not_needed(save, emoji):
    data = HuggingFace(root=save(), num_test=3, **(COLUMNS | {"label_column": None}))
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
def test_a_bad_row_is_named_or_skipped(rows, save, capsys, spoil):
    spoil(rows)
    root = save()
    with pytest.raises(UserError, match="saved/train/5"):
        _ = HuggingFace(root=root, test_split="held", **COLUMNS).train
    data = HuggingFace(root=root, test_split="held", skip_bad=True, **COLUMNS)
    assert len(data.train.pixels) == 7
    assert "1 of 12 files left out as unreadable, the first of them train/5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "other/name"}, "other/name cannot be loaded"),
        ({"train_split": "all"}, r"no split 'all'; it has \['held', 'train'\]"),
        ({"test_split": "test"}, r"no split 'test'"),
        ({"image_column": "image"}, r"no column 'image'; it has \['kind', 'picture'\]"),
        ({"label_column": "label"}, "no column 'label'"),
    ],
)
def test_what_is_not_there(save, monkeypatch, options, message):
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # nothing is fetched
    with pytest.raises(UserError, match=message):
        _ = HuggingFace(**({"root": save()} | COLUMNS | options)).train


def test_a_folder_that_datasets_did_not_write(tmp_path):
    with pytest.raises(UserError, match="save_to_disk"):
        _ = HuggingFace(root=str(tmp_path), **COLUMNS).train


def test_datasets_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # what makes an import fail
    with pytest.raises(UserError, match=r"pip install 'smoothscore\[hf\]'"):
        _ = HuggingFace(root="some/name").train
