"""Run folders as `fit` leaves them, without a training: planted copies and held-out images as samples."""

import csv
import math
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from smoothscore.data import Emoji
from smoothscore.data.samples import SampleSet

PIXELS = {"class_path": "smoothscore.neighbors.Pixels"}
LITE0 = {"class_path": "smoothscore.neighbors.EfficientNetLite0", "init_args": {"resize": 64, "normalize": True}}


def emoji16(**options: Any) -> Emoji:
    """The data of the runs that `write_run` writes by default."""
    return Emoji(image_size=16, num_train=150, num_test=128, batch_size=32, **options)


def planted(data: Emoji, num_samples: int, *, copies: int, seed: int = 0) -> Tensor:
    """Samples [n, 3, 16, 16]: near copies of training images first, then others between held-out images."""
    generator = torch.Generator().manual_seed(seed)
    train, test = data.train.pixels.float() / 255, data.test.pixels.float() / 255
    source = train[torch.randint(len(train), (num_samples,), generator=generator)]
    one, two = (test[torch.randint(len(test), (num_samples,), generator=generator)] for _ in range(2))
    is_copy = torch.arange(num_samples)[:, None, None, None] < copies
    strength = torch.rand(num_samples, 1, 1, 1, generator=generator) * 0.25
    samples = torch.where(is_copy, (1 - strength) * source + strength * one, 0.6 * one + 0.4 * two)
    return samples + 0.02 * torch.randn(samples.shape, generator=generator)


def write_run(
    folder: Path,
    samples: Tensor,
    *,
    extractor: dict[str, Any] | None = PIXELS,
    data: dict[str, Any] | None = None,
    scale: str = "optimal",
    first_seed: int = 0,
    fraction: float = 0.4,
    label: str = "pixels",
) -> Path:
    """Write config.yaml, metrics.csv and samples.npz."""
    folder.mkdir(parents=True)
    config = {
        "seed_everything": 42,
        "trainer": {
            "max_steps": 1200,
            "logger": [{"class_path": "smoothscore.callbacks.RunLogger", "init_args": {"save_dir": str(folder)}}],
            "callbacks": [
                {"class_path": "smoothscore.callbacks.EMA", "init_args": {"decay": 0.999}},
                {
                    "class_path": "smoothscore.callbacks.Generation",
                    "init_args": {
                        "sampler": {"class_path": "smoothscore.samplers.PredictorCorrector"},
                        "num_samples": len(samples),
                        "extractor": extractor,
                    },
                },
            ],
        },
        "model": {"class_path": "smoothscore.modules.TemperatureSmoothed", "init_args": {"scale": scale}},
        "data": {
            "class_path": "smoothscore.data.Emoji",
            "init_args": {"image_size": 16, "num_train": 150, "num_test": 128, "batch_size": 32, **(data or {})},
        },
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_metrics(folder / "metrics.csv", fraction, label)
    seeds = torch.arange(first_seed, first_seed + len(samples))
    SampleSet(samples, seeds, step=1200, nfe=300, seconds=4.5).save(folder / "samples.npz")
    return folder


def write_metrics(path: Path, fraction: float, label: str) -> None:
    """Sparse rows as the CSV logger writes them: training figures, and every 300 steps those of a validation."""
    rows: list[dict[str, float]] = []
    for step in range(0, 1200, 20):
        loss = 0.4 * math.exp(-step / 150) + 0.05 + 0.02 * fraction + 0.006 * math.sin(step * 12.9898)
        rows.append({"step": step, "train/loss": loss, "train/step_ms": 100 + 10 * fraction + 0.01 * step})
    for step in (299, 599, 899, 1199):
        share = fraction * step / 1199
        row = {"step": step, "val/loss": 0.08 + 0.3 * math.exp(-step / 150), "memorization/fraction": share}
        row |= {"memorization/low": max(0, share - 0.05), "memorization/high": share + 0.05, "generation/nfe": 300}
        row |= {f"frechet/train_{label}": 0.9 - share, f"frechet/test_{label}": 1 - 0.6 * share}
        for sigma, exact in ((0.1, 5.5), (0.3, 3.4), (1.0, 1.9)):
            row |= {f"expansion/network_{sigma:g}": 1 + (exact - 1) * share, f"expansion/exact_{sigma:g}": exact}
            row[f"expansion/overlap_{sigma:g}"] = 0.9
        rows.append(row)
    names = ["step", "epoch", *sorted({name for row in rows for name in row} - {"step"})]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({"epoch": 0, **row} for row in rows)
