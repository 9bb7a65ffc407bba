"""CIFAR-10 in its three forms, and pickles that want to run code."""

import os
import pickle
import tarfile

import numpy as np
import pytest
import torch

from smoothscore.data import CIFAR10
from smoothscore.errors import UserError

ROWS = np.random.default_rng(0).integers(0, 256, (6, 8, 3072), dtype=np.uint8)  # five batches and the test batch
LABELS = np.random.default_rng(1).integers(0, 10, (6, 8))
NAMES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
EXPECTED = torch.from_numpy(ROWS).view(6, 8, 3, 32, 32)  # a row holds the red, the green and the blue plane


def write_pickles(folder, protocol=2):
    folder.mkdir()
    for name, rows, labels in zip(NAMES, ROWS, LABELS, strict=True):
        batch = {b"batch_label": b"batch", b"labels": labels.tolist(), b"data": rows, b"filenames": [b"a.png"] * 8}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))


def write_python2_pickles(folder):
    """As the official files are: keys and bytes are strings of Python 2, numpy is that of 2009."""
    folder.mkdir()
    for name, rows, labels in zip(NAMES, ROWS, LABELS, strict=True):
        data = b"".join(
            (
                b"\x80\x02}(U\x06labels](" + b"".join(b"K" + bytes([label]) for label in labels.tolist()) + b"e",
                b"U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
                b"(K\x01K\x08M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff",
                b"J\xff\xff\xff\xffK\x00tb\x89T" + rows.nbytes.to_bytes(4, "little") + rows.tobytes() + b"tbu.",
            )
        )
        (folder / name).write_bytes(data)


def write_binaries(folder):
    folder.mkdir()
    for name, rows, labels in zip(NAMES, ROWS, LABELS, strict=True):
        records = np.concatenate([labels[:, None].astype(np.uint8), rows], axis=1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def write_archive(folder, write, name, inside):
    folder.mkdir()
    write(folder / inside)
    with tarfile.open(folder / name, "w:gz") as tar:
        tar.add(folder / inside, inside)
    for file in (folder / inside).iterdir():
        file.unlink()
    (folder / inside).rmdir()


def folder_of(write, inside):
    def write_it(folder):
        folder.mkdir()
        write(folder / inside)

    return write_it


FORMATS = {
    "the folder itself": write_pickles,
    "as Python 2 wrote it": write_python2_pickles,
    "protocol 5": lambda folder: write_pickles(folder, 5),
    "binary": write_binaries,
    "folder of the folder": folder_of(write_pickles, "cifar-10-batches-py"),
    "folder of the binary folder": folder_of(write_binaries, "cifar-10-batches-bin"),
    "archive": lambda folder: write_archive(folder, write_pickles, "cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "binary archive": lambda folder: write_archive(
        folder, write_binaries, "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
    ),
}


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_holds_the_same_images(tmp_path, form):
    FORMATS[form](tmp_path / "data")
    data = CIFAR10(root=str(tmp_path / "data"), batch_size=4)
    assert torch.equal(data.train.pixels, EXPECTED[:5].flatten(0, 1))
    assert torch.equal(data.test.pixels, EXPECTED[5])
    assert data.train.labels.tolist() == LABELS[:5].flatten().tolist()
    assert data.test.labels.tolist() == LABELS[5].tolist()
    assert data.train.classes[3] == "cat"


def test_the_archive_as_root_and_a_smaller_size(tmp_path):
    write_archive(tmp_path / "data", write_binaries, "renamed.tgz", "cifar-10-batches-bin")
    data = CIFAR10(root=str(tmp_path / "data" / "renamed.tgz"), image_size=16, batch_size=4)
    mean = EXPECTED[:5].flatten(0, 1).float().unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5))
    assert data.train.pixels.shape == (40, 3, 16, 16)
    assert (data.train.pixels.float() - mean).abs().mean() < 20  # noise that is not shrunk is off by 70


def test_a_number_of_training_images(tmp_path):
    write_binaries(tmp_path / "data")
    data = CIFAR10(root=str(tmp_path / "data"), num_train=10, batch_size=4)
    official = {tuple(row) for row in EXPECTED[:5].flatten(0, 1).flatten(1).tolist()}
    assert len(data.train.pixels) == 10
    assert {tuple(row) for row in data.train.pixels.flatten(1).tolist()} < official


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


def evil(path):
    path.write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1000])


def other_shape(path):
    path.write_bytes(pickle.dumps({b"data": np.zeros((8, 100), np.uint8), b"labels": [0] * 8}))


def no_labels(path):
    path.write_bytes(pickle.dumps({b"data": np.zeros((8, 3072), np.uint8)}))


def label_10(path):
    path.write_bytes(pickle.dumps({b"data": np.zeros((8, 3072), np.uint8), b"labels": [10] * 8}))


def no_dict(path):
    path.write_bytes(pickle.dumps([1, 2]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (evil, r"asks for \w+\.system, and only numpy arrays are let through"),
        (truncated, "truncated|Ran out"),
        (other_shape, r"uint8 \[8, 100\]"),
        (no_labels, "labels"),
        (label_10, "labels reach from 10 to 10"),
        (no_dict, "holds a list"),
    ],
)
def test_a_bad_batch_is_named_and_runs_nothing(tmp_path, monkeypatch, spoil, message):
    monkeypatch.chdir(tmp_path)
    write_pickles(tmp_path / "data")
    spoil(tmp_path / "data" / "data_batch_3")
    with pytest.raises(UserError, match=rf"data_batch_3 is no batch.*{message}.*expected uint8"):
        _ = CIFAR10(root="data").train
    assert not (tmp_path / "evil").exists()


def test_a_damaged_archive(tmp_path):
    write_archive(tmp_path / "data", write_pickles, "cifar-10-python.tar.gz", "cifar-10-batches-py")
    archive = tmp_path / "data" / "cifar-10-python.tar.gz"
    archive.write_bytes(archive.read_bytes()[:-5000])
    with pytest.raises(UserError, match="is no batch"):
        _ = CIFAR10(root=str(archive)).train


def test_another_layout(tmp_path):
    write_pickles(tmp_path / "data")
    (tmp_path / "data" / "test_batch").unlink()
    with pytest.raises(UserError, match=r"expected cifar-10-batches-py .*found data_batch_1, data_batch_2"):
        _ = CIFAR10(root=str(tmp_path / "data")).train
    with pytest.raises(UserError, match=r"found nothing of that name"):
        _ = CIFAR10(root=str(tmp_path / "nowhere")).train
    with pytest.raises(UserError, match="image_size is 64"):
        CIFAR10(root="data", image_size=64)
