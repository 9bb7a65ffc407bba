"""Every flipped byte and every truncation of a file that is trusted later is detected."""

import shutil

import numpy as np
import pytest
import torch

from smoothscore.data.images import ImageSet
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.data.samples import SampleSet
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import read_checkpoint
from smoothscore.modules.storage import write_checkpoint
from smoothscore.neighbors import NeighborTable, build_neighbors


def source():
    pixels = torch.randint(0, 256, (12, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = [str(number) for number in range(12)]
    read = lambda name: ImageSet(pixels[int(name)][None], torch.tensor([int(name) % 3]))  # noqa: E731
    return Source("Numbered", 4, "stamp", {"train": names[:8], "test": names[8:]}, read, classes=("a", "b", "c"))


def make_pack(folder):
    open_pack(source(), folder)
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock"))


def make_table(folder):
    data = torch.rand(30, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    build_neighbors(data, 4).save(folder / "table")
    return sorted((folder / "table").iterdir())


def make_samples(folder):
    SampleSet(torch.rand(3, 3, 4, 4), torch.arange(3), 5, 6, 7.0).save(folder / "samples.npz")
    return [folder / "samples.npz"]


def make_checkpoint(folder):
    content = {"state_dict": {"a": torch.rand(200), "b": torch.arange(5)}, "global_step": 3, "callbacks": {}}
    write_checkpoint(content, folder / "last.ckpt")
    return [folder / "last.ckpt"]


KINDS = {
    "pack": (make_pack, lambda folder: open_pack(source(), folder)),
    "table": (make_table, lambda folder: NeighborTable.load(folder / "table")),
    "samples": (make_samples, lambda folder: SampleSet.load(folder / "samples.npz")),
    "checkpoint": (make_checkpoint, lambda folder: read_checkpoint(folder / "last.ckpt")),
}


def refuse(read, folder, path):
    with pytest.raises(UserError, match=path.name):
        read(folder)


def flip_and_cut(kind, folder, flips, cuts, tally):
    """Spread so many flips over the bytes of all files of a kind, and cut each file at so many places."""
    make, read = KINDS[kind]
    files = make(folder)
    read(folder)
    generator = np.random.default_rng(0)
    sizes = [path.stat().st_size for path in files]
    places = generator.choice(sum(sizes), size=min(flips, sum(sizes)), replace=False)
    for path, size, start in zip(files, sizes, np.cumsum([0, *sizes[:-1]]), strict=True):
        whole = path.read_bytes()
        for at in [0, size - 1, *(int(place - start) for place in places if start <= place < start + size)]:
            spoiled = bytearray(whole)
            spoiled[at] ^= 1 << int(generator.integers(8))
            path.write_bytes(spoiled)
            refuse(read, folder, path)
            tally(f"flipped bytes: {kind}", detected=1)
        for cut in {0, 1, size - 1, *generator.integers(size, size=cuts).tolist()}:
            path.write_bytes(whole[:cut])
            refuse(read, folder, path)
            tally(f"truncations: {kind}", detected=1)
        path.write_bytes(whole + b"\0")
        refuse(read, folder, path)
        path.write_bytes(whole)
    read(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_some_flips_and_cuts(tmp_path, tally, kind):
    flip_and_cut(kind, tmp_path, 50, 10, tally)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flips_and_every_cut(tmp_path, tally, kind):
    flip_and_cut(kind, tmp_path, 1000, 1000, tally)


def test_a_pack_is_not_rebuilt_over_damage(tmp_path):
    """Damage is an error, not a reason to build again in silence: whoever owns the disk wants to know."""
    files = make_pack(tmp_path)
    folder = files[0].parent
    (folder / "pixels.npy").write_bytes(b"")
    refuse(KINDS["pack"][1], tmp_path, folder / "pixels.npy")
    shutil.rmtree(folder)
    KINDS["pack"][1](tmp_path)
