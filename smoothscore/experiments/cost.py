"""What a training step costs: seconds and memory per batch for each variant (Table 2)."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from statistics import median

import torch
from lightning import Trainer
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.data import Batch, ImageDataModule
from smoothscore.experiments.base import Finding, Result, Row, check_positive, default_data, new_figure, paper_style
from smoothscore.modules import NoiseConditioned, NoiseUnconditioned, ScoreModule, TemperatureSmoothed
from smoothscore.neighbors import EfficientNetLite0
from smoothscore.networks import NCSNpp


def cost(
    *,
    data: ImageDataModule | None = None,
    extractor: nn.Module | None = None,
    nf: int = 32,
    ch_mult: tuple[int, ...] = (1, 2, 2, 2),
    num_res_blocks: int = 2,
    batch_size: int = 32,
    k: int = 30,
    sigma_collapse: float = 5.0,
    num_steps: int = 15,
    device: str = "auto",
    seed: int = 0,
) -> Result:
    """Seconds and peak memory of a training step, the variants interleaved in one process.

    A step draws noise, finds the target, and goes forward and backward through NCSN++ and through the optimizer.
    Neighbor tables are found beforehand; a step gathers K neighbors from pixel or feature tables. Every variant takes
    one step per round, in an order that changes, and the median over the rounds is given. Memory is the peak of what is
    allocated on a GPU, and on a CPU what is kept for the backward pass.

    Args:
        data: training images; the emoji at 32×32 by default.
        extractor: features for the feature table; EfficientNet-Lite0 by default.
        nf: channels of NCSN++ at full size; 128 is the paper's.
        ch_mult: channels at each size, as multiples of nf.
        num_res_blocks: residual blocks at each size; 4 is the paper's.
        batch_size: images per step; the paper's is 128 at 32×32 and 64 at 64×64.
        k: neighbors, the image itself included.
        sigma_collapse: at and below it the smoothed target replaces the denoising one.
        num_steps: steps timed of each variant, after two that are not.
        device: "auto" takes a GPU if there is one; or a torch device.
        seed: of weights and noise.

    Raises:
        UserError: a number not above 0, k ≥ the number of images, or a network that does not take the images.

    Source: arXiv 2601.19285, Table 2.
    """
    check_positive(nf=nf, batch_size=batch_size, k=k, sigma_collapse=sigma_collapse, num_steps=num_steps)
    data = default_data(data, num_train=1000, image_size=32)
    channels, _, size = data.image_shape
    accelerator = "auto" if device == "auto" else torch.device(device).type

    def network(conditioned: bool) -> NCSNpp:
        torch.manual_seed(seed)
        return NCSNpp(size, channels, nf, ch_mult, num_res_blocks, (16,), 0.1, conditioned)

    tables: dict[str, nn.Module | None] = {
        "pixel": None,
        "feature": extractor if extractor is not None else EfficientNetLite0(),
    }
    variants: dict[str, tuple[ScoreModule, ImageDataModule]] = {}
    plain = _serving(data, batch_size, None, None)
    variants["conditioned"] = NoiseConditioned(network(True)), plain
    variants["unconditioned"] = NoiseUnconditioned(network(False)), plain
    for name, space in tables.items():
        module = TemperatureSmoothed(network(False), sigma_collapse=sigma_collapse)
        variants[f"KNN-{name}"] = module, _serving(data, batch_size, k, space)
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: _step(*variant, accelerator, folder) for name, variant in variants.items()}
        seconds, memory = _measure(steps, num_steps, next(variants["conditioned"][0].parameters()).device)
    base = median(seconds["conditioned"])
    rows: list[Row] = [
        {
            "variant": name,
            "seconds": median(values),
            "ratio": median(values) / base,
            "memory_mib": memory[name] / 2**20,
            "parameters": sum(p.numel() for p in variants[name][0].network.parameters()),
            "batch_size": batch_size,
            "k": k if name.startswith("KNN") else None,
        }
        for name, values in seconds.items()
    ]
    return Result("cost", rows, _findings(rows), _figure(rows))


def _serving(data: ImageDataModule, batch_size: int, k: int | None, extractor: nn.Module | None) -> ImageDataModule:
    """The same images with a table of their own."""
    own = copy.copy(data)
    own.batch_size, own.k, own.extractor, own.table, own.neighbors = batch_size, k, extractor, None, None
    return own


def _step(module: ScoreModule, data: ImageDataModule, accelerator: str, folder: str) -> Callable[[], None]:
    """One training step as a call; a trainer of one step sets everything up."""
    trainer = Trainer(
        max_steps=1, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, default_root_dir=folder,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    optimizer, device = trainer.optimizers[0], trainer.strategy.root_device
    module.to(device).train()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]  # outside of the trainer nothing is logged
    batches: Iterator[Batch] = iter(())

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = iter(data.train_dataloader())
            batch = next(batches)
        batch = Batch(*(part.to(device) for part in batch))
        optimizer.zero_grad()
        module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _measure(
    steps: dict[str, Callable[[], None]], num_steps: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, int]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in tqdm(range(num_steps + 2), desc="cost", unit="round"):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.perf_counter()
            steps[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds, {name: _memory(step, device) for name, step in steps.items()}


def _memory(step: Callable[[], None], device: torch.device) -> int:
    """Peak of the allocated bytes on a GPU; elsewhere, where nothing counts them, those kept for the backward pass."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device)
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step()
    return sum(storages.values())


def _findings(rows: list[Row]) -> list[Finding]:
    ratio = {row["variant"]: row["ratio"] for row in rows}
    claims = (
        ("unconditioned", "Removing the noise embedding costs nothing (Table 2: 0.949 and 0.960)", 1.0),
        ("KNN-feature", "Feature-space neighbors cost next to nothing (Table 2: 0.997 and 1.013)", 1.02),
        ("KNN-pixel", "Pixel neighbors, found beforehand, cost next to nothing (Table 2: 0.976 and 1.231)", 1.02),
    )
    return [
        Finding(f"{claim}: at most {most:g} of a conditioned step", f"{ratio[name]:.3f}", ratio[name] <= most)
        for name, claim, most in claims
    ]


@paper_style()
def _figure(rows: list[Row]) -> Figure:
    figure, axes = new_figure(2, height=1.8)
    names = [row["variant"] for row in rows]
    for axis, key, label in zip(
        axes[0], ("seconds", "memory_mib"), ("seconds per batch", "MiB per batch"), strict=True
    ):
        bars = axis.barh(names, [row[key] for row in rows], color=[f"C{i}" for i in range(len(rows))])
        axis.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel(label)
        axis.margins(x=0.18)
    axes[0, 1].set_yticklabels([])
    return figure
