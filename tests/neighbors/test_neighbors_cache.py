"""Tables on disk: whole or absent, every flipped byte seen, one builder for many processes."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborTable, build_neighbors
from smoothscore.neighbors.digests import digest_tensor


class Logged(nn.Module):
    """An extractor that writes a line to a file whenever it is used."""

    def __init__(self, log: Path, scale: float = 1.0) -> None:
        super().__init__()
        self.log = log
        self.scale = scale
        self.linear = nn.Linear(12, 4)

    def forward(self, images):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        return self.scale * self.linear(images.flatten(1))


def images(rows=30, seed=0):
    return torch.rand(rows, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir())


@pytest.fixture
def table():
    return build_neighbors(images(), 5, labels=torch.arange(30) % 2)


def assert_equal(one: NeighborTable, other: NeighborTable) -> None:
    assert torch.equal(one.indices, other.indices)
    assert torch.equal(one.distances, other.distances)
    assert (one.space, one.variant, one.data_digest) == (other.space, other.variant, other.data_digest)


def test_round_trip(table, tmp_path):
    for path in (tmp_path / "a" / "table", str(tmp_path / "table.npz"), tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        table.save(path)
        assert_equal(NeighborTable.load(path), table)
        assert not list(Path(path).parent.glob(".*"))  # nothing left aside
    cut = table.truncate(2)
    cut.save(tmp_path / "table.npz")  # replaces
    assert_equal(NeighborTable.load(tmp_path / "table.npz"), cut)


def test_nothing_foreign_is_overwritten(table, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    for name in ("file", "folder"):
        with pytest.raises(UserError, match=name):
            table.save(tmp_path / name)
    with pytest.raises(UserError, match="cannot be written"):
        table.save(tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "folder" / "mine").exists()


def test_every_flipped_byte_and_truncation_is_seen(table, tmp_path):
    path = tmp_path / "table"
    table.save(path)
    files = sorted(path.iterdir())
    assert [file.name for file in files] == ["distances.npy", "indices.npy", "manifest.json"]
    generator = np.random.default_rng(0)
    for file in files:
        whole = file.read_bytes()
        places = {0, len(whole) - 1, *generator.integers(len(whole), size=20).tolist()}
        damaged = [
            whole[:at] + bytes([whole[at] ^ (1 << int(generator.integers(8)))]) + whole[at + 1 :] for at in places
        ]
        damaged += [whole[:cut] for cut in (0, 1, len(whole) // 2, len(whole) - 1)] + [whole + b"\n"]
        for content in damaged:
            file.write_bytes(content)
            with pytest.raises(UserError, match=file.name):
                NeighborTable.load(path)
        file.unlink()
        with pytest.raises(UserError, match=file.name):
            NeighborTable.load(path)
        file.write_bytes(whole)
    assert_equal(NeighborTable.load(path), table)


def test_objects_and_absent_folders_are_refused(table, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        NeighborTable.load(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"manifest\.json"):
        NeighborTable.load(tmp_path)
    (tmp_path / "manifest.json").write_text("[1, 2]")
    with pytest.raises(UserError, match="damaged"):
        NeighborTable.load(tmp_path)


def test_the_second_call_reads_the_first_ones_table(tmp_path):
    extractor = Logged(tmp_path / "log")
    tables = [build_neighbors(images(), 3, extractor=extractor, cache_dir=tmp_path / "c") for _ in range(3)]
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert_equal(tables[0], tables[1])
    assert_equal(tables[0], build_neighbors(images(), 3, extractor=extractor))


def test_whatever_changes_the_table_changes_the_key(tmp_path):
    torch.manual_seed(0)
    base, log = images(), tmp_path / "log"
    extractor = Logged(log)
    other_weights, other_setting = Logged(log), Logged(log, scale=2.0)
    other_setting.load_state_dict(extractor.state_dict())
    labels = torch.arange(30) % 2
    calls = [
        (base, 3, extractor, None),
        (base, 4, extractor, None),
        (base, 3, None, None),
        (base, 3, extractor, labels),
        (base, 3, extractor, labels.flip(0).clamp(max=0)),
        (base, 3, other_weights, None),
        (base, 3, other_setting, None),
        (base, 3, nn.Sequential(extractor), None),
        (base + 1e-6, 3, extractor, None),
        (base.view(30, 12), 3, extractor, None),
        ((255 * base).byte(), 3, extractor, None),
    ]
    for data, k, module, given in calls:
        build_neighbors(data, k, extractor=module, labels=given, cache_dir=tmp_path / "c")
    assert len(entries(tmp_path / "c")) == len(calls)


def test_a_damaged_cache_is_an_error_that_names_the_folder(tmp_path):
    build_neighbors(images(), 3, cache_dir=tmp_path)
    (folder,) = entries(tmp_path)
    content = bytearray((folder / "indices.npy").read_bytes())
    content[-3] ^= 4
    (folder / "indices.npy").write_bytes(content)
    with pytest.raises(UserError, match=rf"{folder}.*delete the folder"):
        build_neighbors(images(), 3, cache_dir=tmp_path)
    shutil.rmtree(folder)
    build_neighbors(images(), 3, cache_dir=tmp_path)


def test_a_stale_cache_is_an_error_that_names_both_keys(tmp_path):
    build_neighbors(images(), 3, cache_dir=tmp_path)
    (first,) = entries(tmp_path)
    build_neighbors(images(seed=1), 3, cache_dir=tmp_path)
    (second,) = set(entries(tmp_path)) - {first}
    keys = [json.loads((folder / "manifest.json").read_text())["meta"]["key"] for folder in (first, second)]
    shutil.rmtree(second)
    shutil.copytree(first, second)
    with pytest.raises(UserError, match=f"stale.*{keys[0]}.*{keys[1]}"):
        build_neighbors(images(seed=1), 3, cache_dir=tmp_path)


def test_a_cache_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        build_neighbors(images(), 3, cache_dir=tmp_path / "file")


def _build(folder: Path, barrier, queue) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    extractor = Logged(folder / "log")
    barrier.wait()
    table = build_neighbors(images(), 3, extractor=extractor, cache_dir=folder / "c", progress=False)
    queue.put((digest_tensor(table.indices), digest_tensor(table.distances)))


def test_of_eight_processes_one_builds(tmp_path):
    (tmp_path / "c").mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smoothscore.neighbors"])
    barrier, queue = context.Barrier(8), context.Queue()
    workers = [context.Process(target=_build, args=(tmp_path, barrier, queue)) for _ in range(8)]
    for worker in workers:
        worker.start()
    digests = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
    assert len(set(digests)) == 1
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert len(entries(tmp_path / "c")) == 1
