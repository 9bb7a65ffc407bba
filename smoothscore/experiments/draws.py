"""Samples of every sampler at a number of evaluations, kept on disk, and their measures."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from smoothscore.data import ImageDataModule, equal_reference_rows
from smoothscore.data.resumable import Column, fill_rows
from smoothscore.experiments.base import default_data
from smoothscore.experiments.checkpoints import check_shape, open_checkpoints
from smoothscore.experiments.single import BlindNetwork
from smoothscore.metrics import GeneratedImages
from smoothscore.neighbors import extract_features, extractor_name
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.samplers import (
    ActualNoise,
    ClipDenoised,
    DPMSolver,
    GradientAscent,
    Heun,
    PredictorCorrector,
    ProbabilityFlow,
    Sampler,
)
from smoothscore.samplers.watch import Score
from smoothscore.score import Unconditioned

BATCH = 64  # samples drawn at a time
REFERENCE = "SDE (PC)"
RECOMMENDED = "PC, OU, clipped"
SEARCHING = "actual noise, search"


def _corrected(budget: int, *, corrector_steps: int = 1, **options: Any) -> PredictorCorrector:
    levels = max(2, budget // (1 + corrector_steps))
    return PredictorCorrector(levels, corrector_steps=corrector_steps, **options)


def _kept_level(budget: int) -> PredictorCorrector:
    """The two that keep noise at its level: with a blind network no other schedule-driven one comes back to it."""
    return _corrected(budget, corrector_steps=2, predictor="ancestral", corrector="ornstein_uhlenbeck", snr=0.6)


def _annealed(budget: int) -> PredictorCorrector:
    return PredictorCorrector(
        max(2, (budget - 1) // 3), predictor="none", corrector="annealed_langevin", corrector_steps=3
    )


def _adaptive(budget: int) -> ProbabilityFlow:
    """A tolerance that takes about as many with blind networks; how many is up to the score."""
    tolerance = (18 / budget) ** 3
    return ProbabilityFlow(2, method="rk45", rtol=tolerance, atol=tolerance)


SAMPLERS: dict[str, Callable[[int], Sampler]] = {
    REFERENCE: _corrected,
    "ODE (PC)": lambda n: _corrected(n, predictor="probability_flow"),
    "reverse diffusion": lambda n: PredictorCorrector(n, corrector_steps=0),
    "Euler-Maruyama": lambda n: PredictorCorrector(n, predictor="euler_maruyama", corrector_steps=0),
    "ancestral": lambda n: PredictorCorrector(n, predictor="ancestral", corrector_steps=0),
    "annealed Langevin": _annealed,
    "flow, Euler": ProbabilityFlow,
    "flow, rk45": _adaptive,
    "Heun": lambda n: Heun(max(2, (n + 1) // 2)),
    "multistep": DPMSolver,
    SEARCHING: lambda n: ActualNoise(steps=n),
    "actual noise, score": lambda n: ActualNoise(steps=n, noise="score"),
    "actual noise, schedule, then score": lambda n: ActualNoise(steps=n, noise="score", schedule_until=1.0),
    "actual noise, score, churn": lambda n: ActualNoise(steps=n, noise="score", churn=1.0),
    "gradient ascent": lambda n: GradientAscent(eta=1.0, max_steps=n, step="barzilai_borwein"),
    "multistep, clipped": lambda n: ClipDenoised(DPMSolver(n)),
    "PC, clipped": lambda n: ClipDenoised(_corrected(n, predictor="ancestral", snr=0.35)),
    "PC, OU": _kept_level,
    RECOMMENDED: lambda n: ClipDenoised(_kept_level(n)),
}
"""From a number of evaluations to a sampler of as many, or of the next smaller number of whole levels, two at least.

rk45 alone finds its own number, by its tolerance.
"""


class Model(NamedTuple):
    """What is sampled from."""

    score: Score
    data: ImageDataModule
    sigma_min: float
    sigma_max: float
    digest: str


def open_model(checkpoint: str | None, data: ImageDataModule | None) -> Model:
    """A trained network and its data; without one an ideal blind network of 60 emoji at 16×16, or of other data.

    Raises:
        UserError: a checkpoint that cannot be opened, or takes other images.
    """
    if checkpoint is None:
        images = default_data(data, num_train=60, image_size=16)
        pixels = images.train.pixels
        return Model(BlindNetwork(Unconditioned(pixels)), images, 0.02, 10.0, digest_tensor(pixels))
    ((name, trained),) = open_checkpoints([checkpoint]).items()
    images = trained.data if data is None else data
    module = trained.module
    check_shape(name, module, tuple(images.train.pixels.shape[1:]))
    weights = torch.cat([parameter.detach().flatten().float() for parameter in module.network.parameters()])
    digest = digest_tensor(weights) + digest_tensor(images.train.pixels)
    return Model(module.score, images, module.sigma_min, module.sigma_max, digest)


def open_measures(data: ImageDataModule, extractor: nn.Module) -> GeneratedImages:
    """Memorization and Fréchet distances as a training logs them, with as many images of each class on both sides."""
    rows = equal_reference_rows(data.train.labels, data.test.labels)
    return GeneratedImages(
        data.train.pixels,
        data.test.pixels,
        featurize=lambda images: extract_features(images, extractor, progress=False),
        name=extractor_name(extractor),
        reference_train=rows[0],
        reference_test=rows[1],
        measures=(),
    )


def draw(model: Model, name: str, number: int, folder: Path, num_samples: int, seed: int) -> tuple[Tensor, float]:
    """Draw samples into a folder, or go on drawing, or read them where they are drawn already.

    Args:
        model: what is sampled from.
        name: of the sampler.
        number: of evaluations.
        folder: of all samplers.
        num_samples: n.
        seed: of the first sample.

    Returns:
        Samples [n, *S], not clamped, and the calls of the score for each batch, their mean.

    Raises:
        UserError: the folder holds samples of something else, or a walk leaves the finite numbers.
    """
    sampler = SAMPLERS[name](number)
    shape = model.data.image_shape
    parts: dict[str, str | int] = {
        "model": model.digest,
        "sampler": json.dumps(repr(sampler), ensure_ascii=False),
        "seed": seed,
        "num_samples": num_samples,
    }
    bound = sampler.bind(model.sigma_min, model.sigma_max, model.data.train.pixels)

    def compute(rows: slice) -> dict[str, Tensor]:
        seeds = range(seed + rows.start, seed + rows.stop)
        images = bound.sample(model.score, (len(seeds), *shape), seeds).float()
        return {"images": images, "nfe": torch.full((len(seeds),), bound.nfe)}

    columns = {"images": Column(torch.float32, shape), "nfe": Column(torch.int64)}
    title = f"{name}, {number}"
    path = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
    drawn = fill_rows(path, parts, columns, num_samples, compute, block=BATCH, progress=title, unit="sample")
    return drawn["images"], float(drawn["nfe"].double().mean())
