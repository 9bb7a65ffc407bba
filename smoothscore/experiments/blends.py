"""What a target with n effective neighbors makes of a training image: how far off, and whether still a copy."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from smoothscore.distances import Centers, decode
from smoothscore.experiments.neighborhoods import Neighborhoods

COPY = 2 / 3  # of d₁/d₂: below it a sample counts as memorized


class Blend(NamedTuple):
    """What the target's mean of the neighbors is like at one noise level, over the points."""

    number: float  # n
    sigma: float
    copied: float  # share that is still one training image's copy, d₁/d₂ below 2/3
    moved: float  # median distance to its own image, over that image's distance to its nearest other


def blends(
    points: Neighborhoods, centers: Centers, numbers: Sequence[float], sigmas: Sequence[float], k: int
) -> list[Blend]:
    """The means Σ_k w_k μ_k of the k nearest at which n of them speak, for every n and noise level.

    Args:
        points: noised training images.
        centers: all training images, without repeats.
        numbers: n, each from 1 to k.
        sigmas: noise levels.
        k: neighbors, itself included.
    """
    neighbors = decode(centers.data[points.index[:, :k]]).view(len(points.index), k, *centers.shape)
    found = []
    for number in tqdm(numbers, desc="blends", unit="n"):
        for sigma in sigmas:
            weights = points.effective_weights(sigma, number, k)
            mean = torch.einsum("pk,pk...->p...", weights.float(), neighbors)
            moved = (mean - points.clean).flatten(1).norm(dim=1) / points.distance[:, 1]
            found.append(Blend(number, sigma, _share(mean, centers), float(moved.median())))
    return found


def _share(images: Tensor, centers: Centers) -> float:
    first, second = centers.nearest(images, 2).distance.unbind(1)
    return float((first < COPY * second).double().mean())
