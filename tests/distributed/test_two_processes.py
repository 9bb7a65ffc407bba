"""Two gloo processes give the numbers of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from smoothscore.data.samples import SampleSet

# One process with two accumulated batches does what two processes with one batch each do: batches and noise are
# functions of the same running number.
SCRIPT = """
import json, sys
import torch
from lightning import Trainer
from smoothscore.callbacks import EMA, Generation, RunLogger
from smoothscore.data import Emoji
from smoothscore.modules import TemperatureSmoothed
from smoothscore.networks import UNet
from smoothscore.samplers import PredictorCorrector

if __name__ == "__main__":
    processes, folder = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = TemperatureSmoothed(UNet(image_size=8, nf=8, ch_mult=(1, 2), conditioned=False), sigma_max=10.0)
    # 19 samples and 31 held-out images: neither divides by two.
    data = Emoji(num_train=40, num_test=31, image_size=8, batch_size=8, k=4)
    data.epoch_steps = 6 // processes
    callbacks = [EMA(0.9), Generation(PredictorCorrector(10), num_samples=19)]
    trainer = Trainer(
        accelerator="cpu", devices=processes, strategy="ddp" if processes > 1 else "auto",
        accumulate_grad_batches=2 // processes, max_epochs=2, num_sanity_val_steps=0, gradient_clip_val=1.0,
        logger=RunLogger(folder, name="", version=f"p{processes}"), callbacks=callbacks,
        enable_progress_bar=False, enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    if trainer.is_global_zero:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        figures["weights"] = [float(p.double().sum()) for p in module.parameters()]
        with open(f"{folder}/p{processes}.json", "w") as file:
            json.dump(figures, file)
"""


@pytest.mark.distributed
def test_fit_and_validation_equal_one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for processes in (2, 1):
        command = [sys.executable, script, str(processes), tmp_path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / f"p{processes}.json").read_text()) for processes in (1, 2))
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-4, abs=1e-5)
    assert one["val/loss"] == pytest.approx(two["val/loss"], rel=1e-5)
    for name in ("memorization/fraction", "memorization/held_out", "generation/nfe"):
        assert one[name] == two[name]
    for name in ("memorization/mean_ratio", "frechet/train_pixels", "frechet/test_pixels"):
        assert one[name] == pytest.approx(two[name], rel=1e-4)
    first, second = (SampleSet.load(Path(tmp_path) / name / "samples.npz") for name in ("p1", "p2"))
    assert torch.equal(first.seeds, second.seeds)
    assert torch.allclose(first.images, second.images, atol=1e-3)
