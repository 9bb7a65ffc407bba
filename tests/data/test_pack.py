"""Packs: built once, resumed byte for byte, whole or absent, damage seen."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from smoothscore.data import ImageFolder
from smoothscore.data.images import ImageSet
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError


class Reader:
    """Item "7" is one image of sevens; it counts its calls, and stops the process's work where it is told to."""

    def __init__(self, stop=None, bad=()):
        self.calls, self.stop, self.bad = [], stop, bad

    def __call__(self, name):
        if name == self.stop:
            raise KeyboardInterrupt
        if name in self.bad:
            raise UserError(f"item {name} is bad")
        self.calls.append(int(name))
        return ImageSet(torch.full((1, 3, 2, 2), int(name), dtype=torch.uint8), torch.tensor([int(name) % 3]))


def source(read, count=20, **options):
    names = [str(number) for number in range(count)]
    parts = {"train": names[:-5], "test": names[-5:]}
    return Source("Counted", 2, "stamp", parts, read, **{"classes": ("a", "b", "c"), "block": 4, **options})


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def packs(cache):
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_pixels_labels_parts_and_manifest(cache):
    pack = open_pack(source(Reader()), cache)
    assert torch.equal(pack.images.pixels, torch.arange(20, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2))
    assert torch.equal(pack.images.labels, torch.arange(20) % 3)
    split = pack.split(None, None, 0)
    assert [part.pixels[:, 0, 0, 0].tolist() for part in split] == [list(range(15)), list(range(15, 20))]
    assert split.train.pixels.data_ptr() == pack.images.pixels.data_ptr()  # a view of the file
    (folder,) = packs(cache)
    assert np.array_equal(np.load(folder / "pixels.npy"), pack.images.pixels.numpy())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["classes"] == ["a", "b", "c"]
    assert manifest["num_left_out"] == 0
    assert content(folder).keys() == {"pixels.npy", "labels.npy", "manifest.json"}


def test_the_second_use_reads_nothing_and_writing_to_it_changes_nothing(cache):
    open_pack(source(Reader()), cache).images.pixels.fill_(9)
    again = Reader()
    assert open_pack(source(again), cache).images.pixels[7].unique().tolist() == [7]
    assert again.calls == []


@pytest.mark.parametrize("stop", ["1", "9", "19"])
def test_a_build_that_was_stopped_goes_on(cache, tmp_path, stop):
    open_pack(source(Reader()), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        open_pack(source(Reader(stop=stop)), cache)
    assert not [path for path in packs(cache) if not path.name.startswith(".")]
    rest = Reader()
    open_pack(source(rest), cache)
    assert sorted(rest.calls) == list(range(int(stop) // 4 * 4, 20))
    assert [path.name for path in packs(cache)] == [path.name for path in packs(tmp_path)]
    assert content(packs(cache)[0]) == content(packs(tmp_path)[0])


def test_rows_that_were_written_but_not_noted_are_written_anew(cache, tmp_path, monkeypatch):
    bad = {"bad": ("17", "18")}
    open_pack(source(Reader(**bad)), tmp_path, skip_bad=True)

    def stop_at_the_end(path, content):
        if b'"items": 20' in content:
            raise KeyboardInterrupt
        write_atomically(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("smoothscore.data.packing.write_atomically", stop_at_the_end)
        with pytest.raises(KeyboardInterrupt):
            open_pack(source(Reader()), cache)
    open_pack(source(Reader(**bad)), cache, skip_bad=True)
    assert content(packs(cache)[0]) == content(packs(tmp_path)[0])


SLOW_BUILD = """
import dataclasses, sys, time
from smoothscore.data import ImageFolder, folder

decode, source = folder.decode_image, folder.image_source

def decode_slowly(*args, **options):
    time.sleep(0.02)
    return decode(*args, **options)

folder.decode_image = decode_slowly
folder.image_source = lambda *args, **options: dataclasses.replace(source(*args, **options), block=5)
ImageFolder(root=sys.argv[1], image_size=8, cache_dir=sys.argv[2]).train
"""


def test_a_killed_process_leaves_nothing_half_done(tmp_path, emoji):
    root, straight, killed = tmp_path / "data", tmp_path / "straight", tmp_path / "killed"
    root.mkdir()
    for row in range(60):
        Image.fromarray(emoji[row].permute(1, 2, 0).numpy()).save(root / f"{row}.png")
    expected = ImageFolder(root=str(root), image_size=8, cache_dir=str(straight)).train.pixels
    process = subprocess.Popen([sys.executable, "-c", SLOW_BUILD, str(root), str(killed)], stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if list(killed.glob(".*.partial/progress.json")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert [path.suffix for path in packs(killed)] == [".partial"]
    assert torch.equal(ImageFolder(root=str(root), image_size=8, cache_dir=str(killed)).train.pixels, expected)
    assert content(packs(killed)[0]) == content(packs(straight)[0])


def test_one_builds_and_the_other_waits(cache):
    def slowly(name):
        time.sleep(0.01)
        return read(name)

    read = Reader()
    with ThreadPoolExecutor(2) as pool:
        opened = [pool.submit(open_pack, source(slowly), cache) for _ in range(2)]
    assert torch.equal(opened[0].result().images.pixels, opened[1].result().images.pixels)
    assert sorted(read.calls) == list(range(20))


def test_bad_items_stop_the_build_or_are_counted(cache, capsys):
    bad = {"bad": ("6", "17")}
    with pytest.raises(UserError, match="item 6 is bad"):
        open_pack(source(Reader(**bad)), cache)
    rest = Reader(**bad)
    pack = open_pack(source(rest), cache, skip_bad=True)
    assert min(rest.calls) == 4  # the first block was kept
    assert pack.images.pixels[:, 0, 0, 0].tolist() == [row for row in range(20) if row not in (6, 17)]
    assert pack.parts == {"train": 14, "test": 4}
    assert "2 of 20 files left out as unreadable, the first of them 6" in capsys.readouterr().out
    open_pack(source(Reader()), cache, skip_bad=True)
    assert "2 of 20" in capsys.readouterr().out  # also when it is opened
    with pytest.raises(UserError, match=r"2 of 20.*skip_bad"):
        open_pack(source(Reader()), cache)


def test_nothing_but_bad_items(cache):
    with pytest.raises(UserError, match="none of the 20 files"):
        open_pack(source(Reader(bad=[str(row) for row in range(20)])), cache, skip_bad=True)


def flip(path):
    path.write_bytes(path.read_bytes()[:-3] + bytes([path.read_bytes()[-3] ^ 1]) + path.read_bytes()[-2:])


def truncate(path):
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("name", ["pixels.npy", "labels.npy", "manifest.json"])
@pytest.mark.parametrize("spoil", [flip, truncate, os.remove])
def test_damage_is_seen(cache, name, spoil):
    open_pack(source(Reader()), cache)
    (folder,) = packs(cache)
    spoil(folder / name)
    with pytest.raises(UserError, match=f"{name}.*delete the folder"):
        open_pack(source(Reader()), cache)


def test_large_openedare_checked_by_their_size_alone(cache, monkeypatch):
    open_pack(source(Reader()), cache)
    monkeypatch.setattr("smoothscore.data.pack.CHECKED", 100)
    (folder,) = packs(cache)
    flip(folder / "pixels.npy")
    open_pack(source(Reader()), cache)
    truncate(folder / "pixels.npy")
    with pytest.raises(UserError, match="expected 368"):
        open_pack(source(Reader()), cache)


def test_the_key_knows_what_the_pixels_depend_on():
    base = source(Reader())
    keys = {
        base.key,
        source(Reader(), count=21).key,
        source(Reader(), classes=("a",)).key,
        source(Reader(), options={"crop": 3}).key,
        Source("Other", 2, "stamp", base.parts, base.read, classes=base.classes).key,
        Source("Counted", 3, "stamp", base.parts, base.read, classes=base.classes).key,
        Source("Counted", 2, "another", base.parts, base.read, classes=base.classes).key,
    }
    assert len(keys) == 7
    assert source(Reader(bad=["3"]), block=7).key == base.key


def test_a_changed_file_of_equal_size_is_packed_again(tmp_path, emoji):
    for row in range(8):
        Image.fromarray(emoji[row].permute(1, 2, 0).numpy()).save(tmp_path / f"{row}.bmp")
    options = {"root": str(tmp_path), "num_test": 2, "batch_size": 2}
    before = ImageFolder(**options).train.pixels.clone()
    assert torch.equal(ImageFolder(**options).train.pixels, before)
    for row in range(8):
        Image.fromarray(255 - emoji[row].permute(1, 2, 0).numpy()).save(tmp_path / f"{row}.bmp")
    assert torch.equal(ImageFolder(**options).train.pixels, 255 - before)


def test_subsets_of_the_parts(cache):
    pack = open_pack(source(Reader()), cache)
    train, test = pack.split(4, 3, 0)
    rows = train.pixels[:, 0, 0, 0].tolist()
    assert len(set(rows)) == 4
    assert set(rows) < set(range(15))
    assert len(test.pixels) == 3
    assert rows != pack.split(4, 3, 1).train.pixels[:, 0, 0, 0].tolist()
    with pytest.raises(UserError, match="num_train = 16 is more than the 15 images"):
        pack.split(16, None, 0)


def test_a_cache_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cache_dir"):
        open_pack(source(Reader()), tmp_path / "file")
