"""A checkpoint is whole or absent: killed while it is written, no space, no permission."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from smoothscore.data import samples, seal
from smoothscore.data.samples import SampleSet, atomic_file
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import read_checkpoint
from smoothscore.modules.storage import CheckpointFiles, write_checkpoint
from tests.robustness.fits import _CONTEXT, fit, write_config

NOBODY = 65534


def content(number, size=40_000):
    return {"state_dict": {f"w{part}": torch.full((size,), float(number)) for part in range(3)}, "number": number}


def in_process(target, *args):
    """Exit status of a function in a process of its own."""
    process = _CONTEXT.Process(target=target, args=args)
    process.start()
    process.join(60)
    assert not process.is_alive()
    return process.exitcode


def write_and_die(path, point, number):
    """Write a checkpoint, and get killed at a byte, or before or after the rename."""
    kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    if isinstance(point, int):
        emit, written = seal.SealingWriter._emit, 0

        def emit_some(self, data):
            nonlocal written
            data = bytes(data)
            if written + len(data) > point:
                emit(self, data[: point - written])
                self._file.flush()  # so that the bytes are in the file, as they may be in a real kill
                kill()
            written += len(data)
            emit(self, data)

        seal.SealingWriter._emit = emit_some
    elif point == "before":
        os.fsync = kill
    elif point == "between":
        Path.replace = kill
    else:
        samples.folder_to_disk = kill
    write_checkpoint(content(number), path)


def kill_while_writing(folder, times, seed):
    """How often the file of before was there afterwards, and how often the new one."""
    path = folder / "last.ckpt"
    write_checkpoint(content(0), path)
    size = path.stat().st_size
    generator = np.random.default_rng(seed)
    points = [int(generator.integers(size)) for _ in range(times)]
    points[:3] = ["before", "between", "after"]
    outcomes = {"old": 0, "new": 0}
    standing = 0
    for number, point in enumerate(points, start=1):
        assert in_process(write_and_die, path, point, number) == -signal.SIGKILL
        found = read_checkpoint(path)
        assert found["number"] in (standing, number)
        assert all((weights == found["number"]).all() for weights in found["state_dict"].values())
        outcomes["new" if found["number"] == number else "old"] += 1
        standing = found["number"]
    assert len(list(folder.glob(".*.partial"))) == times - 1  # the rename had happened in one case
    CheckpointFiles().save_checkpoint(content(99), path)
    assert list(folder.iterdir()) == [path]  # the next run removes what was left
    assert read_checkpoint(path)["number"] == 99
    return outcomes


def test_killed_while_writing(tmp_path, tally):
    outcomes = kill_while_writing(tmp_path, 6, 0)
    assert outcomes == {"old": 5, "new": 1}
    tally("kills while a checkpoint is written", survived=6)


@pytest.mark.slow
def test_killed_a_hundred_times_while_writing(tmp_path, tally):
    kill_while_writing(tmp_path, 100, 1)
    tally("kills while a checkpoint is written", survived=100)


def write_by_lightning(path):
    from lightning.fabric.utilities.cloud_io import _atomic_save

    os.setuid(NOBODY)
    _atomic_save(content(1), path)


def test_lightnings_own_writer_hides_a_missing_permission(tmp_path):
    """Why there is a plugin. Where this fails, Lightning has mended it."""
    if os.geteuid() != 0:
        pytest.skip("another user's rights can only be taken by root")
    folder = open_folder(tmp_path, 0o755)
    assert in_process(write_by_lightning, folder / "a.ckpt") == 0  # no error
    assert not list(folder.iterdir())  # and no file
    shutil.rmtree(folder)


def open_folder(tmp_path, mode):
    """A folder that another user can reach: pytest's own lie in one that only we can enter."""
    folder = Path("/tmp") / f"smoothscore-{os.getpid()}-{tmp_path.name}"
    folder.mkdir()
    folder.chmod(mode)
    return folder


def write_without_permission(path):
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    with pytest.raises(UserError, match=f"{path} cannot be written .*Permission denied"):
        write_checkpoint(content(2), path)
    os._exit(7)


def write_with_a_full_disk(path, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    with pytest.raises(UserError, match=f"{path} cannot be written"):
        write_checkpoint(content(2), path)
    os._exit(7)


def test_no_permission_is_an_error_and_the_old_file_stays(tmp_path, tally):
    folder = open_folder(tmp_path, 0o755)
    try:
        write_checkpoint(content(1), folder / "last.ckpt")
        folder.chmod(0o555)
        assert in_process(write_without_permission, folder / "last.ckpt") == 7
        assert read_checkpoint(folder / "last.ckpt")["number"] == 1
        assert len(list(folder.iterdir())) == 1
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)
    tally("no permission to write a checkpoint", detected=1)


@pytest.mark.parametrize("limit", [0, 10_000, 300_000, 480_000])
def test_a_full_disk_is_an_error_and_the_old_file_stays(tmp_path, tally, limit):
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(1), path)
    assert limit < path.stat().st_size
    assert in_process(write_with_a_full_disk, path, limit) == 7
    assert read_checkpoint(path)["number"] == 1
    assert list(tmp_path.iterdir()) == [path]
    tally("full disk while a checkpoint is written", detected=1)


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_disk_that_refuses_late_is_an_error_too(tmp_path, monkeypatch, tally, function):
    path = tmp_path / "last.ckpt"
    write_checkpoint(content(1), path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if function == "fsync" else (Path, "replace")), full)
        with pytest.raises(UserError, match="No space left"):
            write_checkpoint(content(2), path)
    assert read_checkpoint(path)["number"] == 1
    assert list(tmp_path.iterdir()) == [path]
    tally("full disk while a checkpoint is written", detected=1)


@pytest.mark.slow
def test_a_full_file_system(tmp_path, tally):
    """The real thing: a file system of 700 kB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=700k", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a file system")
    try:
        write_checkpoint(content(1), place / "a.ckpt")
        for path in (place / "a.ckpt", place / "b.ckpt"):
            with pytest.raises(UserError, match="No space left"):
                write_checkpoint(content(2), path)
        assert read_checkpoint(place / "a.ckpt")["number"] == 1
        assert [path.name for path in place.iterdir()] == ["a.ckpt"]
        tally("full disk while a checkpoint is written", detected=2)
    finally:
        subprocess.run(["umount", place], check=True)


def test_an_error_of_the_writer_itself_leaves_nothing(tmp_path):
    def fail():
        with atomic_file(tmp_path / "a") as file:
            file.write(b"1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.distributed)])
def test_fit_on_a_full_disk_ends_with_an_error_on_every_process(tmp_path, tally, processes):
    config = write_config(tmp_path / "config.yaml")
    limit = {"SMOOTHSCORE_TEST_FSIZE": "20000"}  # bytes of a file
    codes, log = fit(tmp_path / "run", config, processes=processes, resume=False, env=limit)
    assert all(codes), log
    assert "smoothscore: error: " in log
    assert ".ckpt cannot be written" in log
    assert not list((tmp_path / "run").rglob("*.ckpt"))
    tally("full disk during `fit`", detected=1)


def test_samples_are_whole_or_absent_too(tmp_path):
    kept = SampleSet(torch.rand(4, 3, 8, 8), torch.arange(4), 1, 2, 3.0)
    kept.save(tmp_path / "samples.npz")
    with np.load(tmp_path / "samples.npz") as archive:  # any reader of .npz opens it
        assert np.array_equal(archive["images"], kept.images.numpy())
    assert torch.equal(SampleSet.load(tmp_path / "samples.npz").images, kept.images)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]
