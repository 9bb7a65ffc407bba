"""Real gloo processes extract features together: every image once, one table for all, none left waiting."""

import json
import subprocess
import sys

import pytest
import torch

from smoothscore.data import Emoji
from smoothscore.neighbors import NeighborTable

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from torch import nn
import torch.distributed as dist
from smoothscore.data import Emoji
from smoothscore.neighbors.digests import digest_tensor

class Noted(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(192, 6)

    def forward(self, images):
        rank = dist.get_rank() if dist.is_initialized() else 0
        with open(f"{os.environ['NOTES']}/{rank}", "a") as file:
            file.writelines(f"{float(image.double().sum())!r}\\n" for image in images)
        return self.linear(images.flatten(1))

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if dist.is_initialized() else 0
    if sys.argv[1] == "apart":  # a cache of its own for every machine, which are processes here
        import socket
        socket.gethostname = lambda: f"machine{rank}"
        os.environ["SMOOTHSCORE_CACHE"] += f"-{rank}"
    data = Emoji(num_train=500, num_test=50, image_size=8, batch_size=8, k=5, extractor=Noted())
    data.setup()
    facts = [digest_tensor(data.table.indices), digest_tensor(data.table.distances)]
    Path(os.environ["NOTES"], f"{rank}.json").write_text(json.dumps(facts))
"""


def launch(tmp_path, processes, mode="together"):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *torchrun, str(script), mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def notes(folder, processes):
    seen = [(folder / str(rank)).read_text().split() for rank in range(processes) if (folder / str(rank)).exists()]
    digests = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]
    return seen, digests


@pytest.mark.distributed
@pytest.mark.parametrize("counts", [(1, 3), pytest.param((1, 2, 4), marks=pytest.mark.slow)])
def test_processes_share_the_images_and_get_one_table(tmp_path, monkeypatch, counts):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    digests = {}
    for processes in counts:
        folder = tmp_path / str(processes)
        folder.mkdir()
        monkeypatch.setenv("NOTES", str(folder))
        monkeypatch.setenv("SMOOTHSCORE_CACHE", str(folder / "cache"))
        launch(tmp_path, processes)
        seen, digests[processes] = notes(folder, processes)
        assert len(seen) == processes
        assert sum(map(len, seen)) == 500  # none twice
        assert max(map(len, seen)) - min(map(len, seen)) <= 64 * (processes > 1)  # a shard more or less
        left = [path.name for path in (folder / "cache").iterdir() if path.is_dir()]
        assert len(left) == 1
        assert left[0].startswith("Noted-k5-")
        table = NeighborTable.load(folder / "cache" / left[0])
        images = Emoji(num_train=500, num_test=50, image_size=8).train.pixels
        sums = images.double().div(255).float().double().flatten(1).sum(1)
        assert sorted(float(value) for part in seen for value in part) == pytest.approx(sums.sort().values.tolist())
        assert torch.equal(table.indices[:, 0], torch.arange(500))
    assert len({tuple(digest) for found in digests.values() for digest in found}) == 1


@pytest.mark.distributed
def test_machines_without_a_shared_cache_build_each_for_itself(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NOTES", str(tmp_path))
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    out = launch(tmp_path, 2, "apart")
    seen, digests = notes(tmp_path, 2)
    assert [len(part) for part in seen] == [500, 500]
    assert digests[0] == digests[1]
    assert "not one folder for all machines" in out
