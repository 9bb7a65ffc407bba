"""One, two and four processes, and two nodes of two, give the same neighbors, samples, counts and distances.

The short form, with two processes, is test_two_processes.py.
"""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from smoothscore.data.samples import SampleSet

# Batches and noise are functions of a running number, so a world of n with 4/n accumulated batches does the same work.
SCRIPT = """
import json, os, sys
import torch
from lightning import Callback, Trainer
from torch import nn
from smoothscore.callbacks import Generation, Interruption, LossGuard, RunLogger
from smoothscore.data import Emoji
from smoothscore.data.rows import FixedLoader
from smoothscore.modules import TemperatureSmoothed
from smoothscore.modules.storage import CheckpointFiles
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.networks import UNet
from smoothscore.samplers import PredictorCorrector


class Traced(nn.Module):
    '''Features that leave a line in a file whenever a process computes them.'''

    def __init__(self, log):
        super().__init__()
        self.log = log

    def forward(self, images):
        with open(self.log, "a") as file:
            file.write(f"{os.getpid()} {len(images)}\\n")
        return images.flatten(1)[:, ::3]


class Rows(Callback):
    '''Keeps which held-out rows this process was shown.'''

    rows = ()

    def on_validation_batch_start(self, trainer, pl_module, batch, *args):
        self.rows = [*self.rows, *batch.index.tolist()]


if __name__ == "__main__":
    folder, world, nodes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = TemperatureSmoothed(UNet(image_size=8, nf=8, ch_mult=(1, 2), conditioned=False), sigma_max=10.0)
    # Samples are drawn one by one, since convolutions of another batch size may differ in the last bit.
    # 19 samples, 31 held-out images and 43 training images divide by nothing.
    data = Emoji(num_train=43, num_test=31, image_size=8, batch_size=4, k=4, extractor=Traced(folder + "/log"))
    data.epoch_steps = 8 // world
    seen = Rows()
    callbacks = [seen, Generation(PredictorCorrector(10), num_samples=19, batch_size=1), LossGuard(), Interruption()]
    trainer = Trainer(
        accelerator="cpu", devices=world // nodes, num_nodes=nodes, strategy="ddp" if world > 1 else "auto",
        accumulate_grad_batches=4 // world, max_epochs=1, num_sanity_val_steps=0, gradient_clip_val=1.0,
        logger=RunLogger(folder, name="", version="run"), callbacks=callbacks, plugins=[CheckpointFiles()],
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    # Also from given weights, so that sums of gradients in another order do not count.
    torch.manual_seed(7)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.02 * torch.randn_like(p))
    seen.rows = []
    fitted = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.validate(module, datamodule=data, verbose=False)
    own = {
        "table": [digest_tensor(data.table.indices), digest_tensor(data.table.distances)],
        "rows": seen.rows,
        "figures": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "fitted": fitted,
        "weights": [float(p.double().sum()) for p in module.parameters()],
    }
    with open(f"{folder}/rank{trainer.global_rank}.json", "w") as file:
        json.dump(own, file)
"""


def run(tmp_path, world, nodes=1):
    folder = tmp_path / f"w{world}n{nodes}"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {**os.environ, "SMOOTHSCORE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    arguments = [str(script), str(folder), str(world), str(nodes)]
    if nodes == 1:
        commands = [[sys.executable, *arguments]]
    else:
        torchrun = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            f"--nnodes={nodes}",
            f"--nproc-per-node={world // nodes}",
            "--master-addr=127.0.0.1",
            f"--master-port={free_port()}",
        ]
        commands = [[*torchrun, f"--node-rank={node}", *arguments] for node in range(nodes)]
    started = [subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        for process in started:
            _, error = process.communicate(timeout=240)
            assert process.returncode == 0, error[-3000:]
    finally:
        for process in started:
            process.kill()
    ranks = [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(world)]
    return ranks, SampleSet.load(folder / "run" / "samples.npz"), (folder / "log").read_text().splitlines()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def assert_equals_one_process(one, several):
    (alone,), samples, log = one
    ranks, other, others_log = several
    for rank in ranks:
        assert rank["table"] == alone["table"]
        assert rank["weights"] == pytest.approx(alone["weights"], rel=1e-12)
        for name in ("memorization/fraction", "memorization/held_out", "generation/nfe"):
            assert rank["figures"][name] == alone["figures"][name]
        for name in ("frechet/train_pixels", "frechet/test_pixels"):
            assert rank["figures"][name] == pytest.approx(alone["figures"][name], rel=1e-6)
        assert rank["figures"]["val/loss"] == pytest.approx(alone["figures"]["val/loss"], rel=1e-5)
        assert rank["fitted"]["val/loss"] == pytest.approx(alone["fitted"]["val/loss"], rel=1e-4)
    assert sorted(row for rank in ranks for row in rank["rows"]) == list(range(31))  # no padding, no duplicate
    assert torch.equal(other.seeds, samples.seeds)
    assert torch.equal(other.images, samples.images)
    # Every training image's features were computed once, whoever did it.
    assert sum(int(line.split()[1]) for line in others_log) == sum(int(line.split()[1]) for line in log) == 43


@pytest.mark.slow
@pytest.mark.distributed
def test_one_two_and_four_processes_and_two_nodes_of_two(tmp_path, tally):
    one = run(tmp_path, 1)
    for world, nodes in ((2, 1), (4, 1), (4, 2)):
        assert_equals_one_process(one, run(tmp_path, world, nodes))
        tally("worlds that equal one process (2, 4, and 2 nodes of 2)", survived=1)
