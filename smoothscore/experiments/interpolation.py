"""Images between two training images: both noised, mixed, and denoised again (Fig. 1 b)."""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import Centers, decode
from smoothscore.samplers import PredictorCorrector, Score, latent
from smoothscore.schedules import log_uniform


class Interpolation(NamedTuple):
    """Denoised mixtures of two noised images, from the one to the other."""

    share: Tensor  # [n] of the second image
    noised: Tensor  # [n, *S]
    denoised: Tensor  # [n, *S]
    ratio: Tensor  # [n] d1/d2, distances to the nearest and second nearest training image
    nearest: Tensor  # [n] row of the nearest training image


def interpolate(
    score: Score,
    images: Tensor,
    pair: tuple[int, int],
    *,
    sigma: float,
    sigma_min: float,
    num_levels: int = 60,
    snr: float = 0.16,
    num: int = 9,
    seed: int = 0,
) -> Interpolation:
    """Noise two training images, mix them, and denoise every mixture with the same noise.

    x(λ) = (1−λ) μ_0 + λ μ_1 + σ ((1−λ) ε_0 + λ ε_1)/√((1−λ)² + λ²): of noise level σ at every λ.

    Args:
        score: (x, sigma) -> score, of a network or exact.
        images: all training images.
        pair: rows of the two.
        sigma: noise level at which they are mixed.
        sigma_min: lowest level of the sampler.
        num_levels: of the sampler, ancestral with one Langevin step per level.
        snr: of the Langevin steps.
        num: mixtures, the two noised images included.
        seed: of the noise.

    Source: arXiv 2601.19285, Sec. 1 and Fig. 1 (b).
    """
    first, second = decode(images[list(pair)])
    noise = torch.randn((2, *first.shape), generator=torch.Generator().manual_seed(seed))
    sampler = PredictorCorrector(log_uniform(sigma_min, sigma, num_levels), predictor="ancestral", snr=snr)
    share, noised, denoised = latent.interpolate(
        score, first, second, sigma=sigma, sigma_min=sigma_min, num=num, noise=noise, sampler=sampler, seed=seed
    )
    found = Centers(images).nearest(denoised, 2)
    return Interpolation(share, noised, denoised, found.distance[:, 0] / found.distance[:, 1], found.index[:, 0])
