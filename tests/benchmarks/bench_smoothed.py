"""The smoothed target against the plain form, and a smoothed training step against a conditioned one.

Prints ratios, all forms interleaved in one process: `python tests/benchmarks/bench_smoothed.py [--repeat 9]`.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from statistics import median

import torch
from lightning import Trainer
from torch import Tensor

from smoothscore.data import Emoji
from smoothscore.modules import NoiseConditioned, NoiseUnconditioned, ScoreModule, TemperatureSmoothed
from smoothscore.neighbors import EfficientNetLite0, NeighborStore, NeighborTable
from smoothscore.networks import UNet
from smoothscore.schedules import EffectiveNeighbors
from smoothscore.score import optimal_log_weight, smoothed_target
from smoothscore.score.effective import solve_temperature

SIZES = [(128, 30, 3072), (128, 100, 3072), (64, 30, 12288)]


def plain(x: Tensor, centers: Tensor, temperature: Tensor) -> Tensor:
    """Eq. (10) as it is written: differences, component scores and products, each materialised."""
    dim = x.shape[1]
    difference = centers - x.unsqueeze(1)
    sigma_star_sq = difference.square().sum(-1) / dim
    weights = torch.softmax(-(dim - 2) / 2 * sigma_star_sq.log() / temperature.unsqueeze(1), dim=1)
    scores = difference / sigma_star_sq.unsqueeze(-1)
    return (weights.unsqueeze(-1) * scores).sum(1)


def interleaved(forms: dict[str, Callable[[], object]], repeat: int) -> dict[str, float]:
    """Median milliseconds of each form, taken in turn."""
    for form in forms.values():
        form()
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeat):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def peak_extra(form: Callable[[], object]) -> int:
    """Bytes by which the process's peak memory grows, counted by the system."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    form()
    return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)


def bench_target(repeat: int) -> None:
    """Target from gathered centers, and end to end from the uint8 store."""
    for batch, k, dim in SIZES:
        generator = torch.Generator().manual_seed(0)
        centers = torch.rand(batch, k, dim, generator=generator)
        x = centers[:, 0] + 0.5 * torch.randn(batch, dim, generator=generator)
        sigma, temperature = torch.full((batch,), 0.5), torch.full((batch,), 10.0)
        extra = peak_extra(lambda: smoothed_target(x, centers, sigma, temperature))
        distance_sq = (centers - x.unsqueeze(1)).square().sum(2, dtype=torch.float64)
        log_weight = optimal_log_weight(distance_sq, dim)
        data = torch.randint(0, 256, (4000, dim), dtype=torch.uint8, generator=generator)
        others = torch.randint(0, 4000, (4000, k - 1), generator=generator)
        rows = torch.arange(4000).unsqueeze(1)
        others = torch.where(others == rows, (others + 1) % 4000, others)
        distances = torch.arange(k, dtype=torch.float32).expand(4000, k).contiguous()
        store = NeighborStore(NeighborTable(torch.cat([rows, others], 1), distances), data)
        index, buffer = torch.arange(batch), torch.empty(batch, k, dim)
        got = interleaved(
            {
                "plain": lambda: plain(x, centers, temperature),
                "ours": lambda: smoothed_target(x, centers, sigma, temperature),
                "ours, n": lambda: smoothed_target(x, centers, sigma, EffectiveNeighbors(2.0)),
                "solve": lambda: solve_temperature(log_weight, 2.0),
                "read twice": lambda: (centers.sum(), centers.sum()),
                "store, plain": lambda: plain(x, data[store.indices[index].long()].float() / 255, temperature),
                "store, ours": lambda: smoothed_target(x, store.images(index, out=buffer), sigma, temperature),
                "store, n": lambda: smoothed_target(x, store.images(index, out=buffer), sigma, EffectiveNeighbors(2.0)),
            },
            repeat,
        )
        print(
            f"(B, K, d) = ({batch}, {k}, {dim}): plain {got['plain']:.1f} ms, ours {got['ours']:.1f} ms: "
            f"{got['plain'] / got['ours']:.1f} times as fast; {got['ours'] / got['read twice']:.1f} times the bound of "
            f"reading the centers twice; extra memory {extra / centers.nbytes:.2f} of the centers; "
            f"from the store {got['store, plain']:.1f} against {got['store, ours']:.1f} ms: "
            f"{got['store, plain'] / got['store, ours']:.1f} times"
        )
        print(
            f"  n effective neighbors in place of T: {got['ours, n']:.1f} ms, {got['ours, n'] / got['ours'] - 1:+.1%}; "
            f"from the store {got['store, n']:.1f} ms, {got['store, n'] / got['store, ours'] - 1:+.1%}; solve alone "
            f"{got['solve']:.2f} ms"
        )


def prepared(module: ScoreModule, data: Emoji, folder: str) -> Callable[[], None]:
    """One whole training step of a module: target, forward, backward, clipping, optimizer."""
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, default_root_dir=folder, limit_val_batches=0)  # fmt: skip
    trainer.fit(module, datamodule=data)
    module.train()
    module.log = lambda *args, **kwargs: None  # type: ignore[method-assign]  # outside a running fit
    optimizer = torch.optim.AdamW(module.parameters(), lr=2e-4)
    loader, batches = data.train_dataloader(), []
    batches.extend(loader)

    def step() -> None:
        batch = batches[0]
        batches.append(batches.pop(0))
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    return step


def bench_step(repeat: int) -> None:
    """A smoothed step against a conditioned one: the demo's U-Net on Emoji 32×32, batch 64, σ_collapse 5."""

    def unet(conditioned: bool) -> UNet:
        return UNet(image_size=32, nf=16, ch_mult=(1, 2, 4), conditioned=conditioned)

    with tempfile.TemporaryDirectory() as folder:
        plain_data = Emoji(cache_dir=folder)
        forms = {
            "conditioned": prepared(NoiseConditioned(unet(True)), plain_data, folder),
            "unconditioned": prepared(NoiseUnconditioned(unet(False)), plain_data, folder),
        }
        for k in (10, 30, 100):
            data = Emoji(k=k, cache_dir=folder)
            forms[f"pixels K={k}"] = prepared(TemperatureSmoothed(unet(False), sigma_collapse=5.0), data, folder)
        module = TemperatureSmoothed(unet(False), sigma_collapse=5.0, temperature=EffectiveNeighbors(2.0))
        forms["pixels K=30, n"] = prepared(module, Emoji(k=30, cache_dir=folder), folder)
        data = Emoji(k=30, extractor=EfficientNetLite0(), cache_dir=folder)
        forms["features K=30"] = prepared(TemperatureSmoothed(unet(False), sigma_collapse=5.0), data, folder)
        got = interleaved(forms, repeat)
    base, blind = got["conditioned"], got["unconditioned"]
    for name, value in got.items():
        print(f"step {name:<15} {value:7.1f} ms, {value / base:.3f} of conditioned, {value - blind:+.1f} ms to blind")
    for k in (10, 30, 100):  # uint8 read, float written and read twice by the target; at the copy speed of this machine
        block = torch.empty(64, k, 3072)
        copy = interleaved({"copy": lambda block=block: block.clone()}, repeat)["copy"]
        print(f"bound K={k}: reading the neighbors once as float32 takes about {copy / 2:.1f} ms")


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=9)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, device cpu")
    bench_target(options.repeat)
    bench_step(options.repeat)


if __name__ == "__main__":
    main()
