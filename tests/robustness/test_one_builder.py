"""Of eight processes that want the same pack or table at once, one builds it and all get the same bytes."""

import os

import pytest
import torch

from smoothscore.data.images import ImageSet
from smoothscore.data.pack import open_pack
from smoothscore.data.packing import Source
from smoothscore.neighbors import build_neighbors
from smoothscore.neighbors.digests import digest_tensor
from tests.robustness.fits import _CONTEXT


class Traced(torch.nn.Module):
    """Features that leave a line in a file whenever a process computes them."""

    def __init__(self, log):
        super().__init__()
        self.log = str(log)

    def forward(self, images):
        leave_a_line(self.log)
        return images.flatten(1)[:, ::2]


def leave_a_line(log):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")


def open_a_pack(folder):
    def read(name):
        leave_a_line(folder / "log")
        return ImageSet(torch.full((1, 3, 4, 4), int(name), dtype=torch.uint8), torch.tensor([0]))

    names = [str(number) for number in range(20)]
    pack = open_pack(Source("Numbered", 4, "stamp", {"all": names}, read), folder / "cache")
    return digest_tensor(pack.images.pixels)


def open_a_table(folder):
    data = torch.rand(50, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    table = build_neighbors(data, 4, extractor=Traced(folder / "log"), cache_dir=folder / "cache", progress=False)
    return digest_tensor(table.indices) + digest_tensor(table.distances)


def work(open_it, folder, barrier, queue):
    torch.set_num_threads(1)
    barrier.wait()
    queue.put(open_it(folder))


@pytest.mark.parametrize("open_it", [open_a_pack, pytest.param(open_a_table, marks=pytest.mark.slow)])
def test_one_of_eight_builds(tmp_path, tally, open_it):
    (tmp_path / "cache").mkdir()
    barrier, queue = _CONTEXT.Barrier(8), _CONTEXT.Queue()
    workers = [_CONTEXT.Process(target=work, args=(open_it, tmp_path, barrier, queue)) for _ in range(8)]
    for worker in workers:
        worker.start()
    digests = [queue.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(timeout=60)
        assert worker.exitcode == 0
    assert len(set(digests)) == 1
    assert len(set((tmp_path / "log").read_text().split())) == 1
    tally("8 processes on one empty cache: one builds, eight equal digests", survived=8)
