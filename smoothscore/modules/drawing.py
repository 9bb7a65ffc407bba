"""Many samples from a checkpoint, on disk, in a drawing that goes on where it was killed."""

import json
from pathlib import Path

import torch
from jsonargparse import ArgumentParser
from torch import Tensor

import smoothscore.samplers  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.data.rebuild import parse_again
from smoothscore.data.resumable import Column, fill_rows
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import Trained
from smoothscore.neighbors.digests import digest_file
from smoothscore.samplers import Sampler


def draw_samples(
    trained: Trained,
    folder: Path,
    num_samples: int,
    *,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw samples from a checkpoint into a folder; sample i starts from seed `seed` + i.

    Args:
        trained: the opened checkpoint.
        folder: where the samples are kept.
        num_samples: n.
        sampler: how they are drawn; None takes the sampler that the run was measured with.
        seed: of the first sample.
        batch_size: samples drawn at a time, and between two notes of progress.
        device: where to draw; the same seed gives different noise on CPU and GPU.

    Returns:
        float32 [n, C, H, W], memory-mapped, nothing clamped.

    Raises:
        UserError: a run that names no sampler, or a folder with samples of another checkpoint, sampler, seed or device.
    """
    if num_samples < 1 or batch_size < 1:
        raise UserError(f"num_samples is {num_samples} and batch_size {batch_size}: both are at least 1.")
    device = torch.device(device)
    sampler = sampler or configured_sampler(trained)
    module = trained.module.to(device)
    shape = trained.data.image_shape
    walk = sampler.bind(module.sigma_min, module.sigma_max, trained.data.train.pixels)
    parts: dict[str, str | int] = {
        "checkpoint": digest_file(trained.path),
        "sampler": json.dumps(_plain(sampler), sort_keys=True),
        "seed": seed,
        "num_samples": num_samples,
        "device": device.type,
    }

    def compute(rows: slice) -> dict[str, Tensor]:
        seeds = list(range(seed + rows.start, seed + rows.stop))
        return {"images": walk.sample(module.score, (len(seeds), *shape), seeds, device).float()}

    columns = {"images": Column(torch.float32, shape)}
    drawn = fill_rows(
        folder, parts, columns, num_samples, compute, block=batch_size, progress="drawing samples", unit="sample"
    )
    return drawn["images"]


def configured_sampler(trained: Trained) -> Sampler:
    """The sampler that a run was measured with.

    Raises:
        UserError: the run's configuration names none.
    """
    callbacks = (trained.config.get("trainer") or {}).get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        options = callback.get("init_args") or {}
        if "sampler" in options:
            parser = ArgumentParser(exit_on_error=False)
            parser.add_subclass_arguments(Sampler, "sampler", required=True)
            parsed = parse_again(parser, {"sampler": options["sampler"]}, trained.path)
            built: Sampler = parser.instantiate(parsed).sampler
            return built
    raise UserError(f"{trained.path} does not say how its samples are drawn: give --sampler, for instance Heun.")


def _plain(sampler: Sampler) -> dict[str, str]:
    """What a sampler was made with, as text, tensors by their values."""
    found = {"class": type(sampler).__qualname__}
    for name, value in vars(sampler).items():
        found[name] = str(value.tolist()) if isinstance(value, Tensor) and value.numel() < 10_000 else repr(value)
    return found
