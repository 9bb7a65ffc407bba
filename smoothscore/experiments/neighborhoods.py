"""What a smoothed target blends around noised training images, at any noise level from one search."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from smoothscore.distances import Centers, decode
from smoothscore.schedules import CollapseTemperature
from smoothscore.score import EmpiricalScore, effective_number, optimal_log_weight, optimal_weights
from smoothscore.score.effective import solve_temperature

_HALVINGS = 30


class Neighborhoods:
    """Noised training images x = μ + σε with the K nearest training images of each μ, itself first.

    ‖x − μ_k‖² = ‖μ − μ_k‖² + 2σ ε·(μ − μ_k) + σ²‖ε‖², so one search serves every noise level.

    Args:
        centers: the training images, without repeats.
        num_points: noised images, at most one per training image.
        k: neighbors of each, itself included.
        seed: of images and noise.

    Attributes:
        distance: [P, K] of each image to its neighbors, not squared.
        index: [P, K], rows of the neighbors.
    """

    def __init__(self, centers: Centers, num_points: int, k: int, *, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randperm(centers.count, generator=generator)[:num_points]
        self.dim = centers.dim
        self.clean = decode(centers.data[rows]).view(len(rows), *centers.shape)
        self.noise = torch.randn(self.clean.shape, generator=generator)
        self.distance, self.index = centers.nearest(self.clean, k)
        noise = self.noise.double().flatten(1)
        self._apart_sq = self.distance.double().square()
        self._noise_sq = noise.square().sum(1, keepdim=True)
        clean = self.clean.double().flatten(1)
        offsets = (image - decode(centers.data[near]).double() for image, near in zip(clean, self.index, strict=True))
        self._along = torch.stack([offset @ own for offset, own in zip(offsets, noise, strict=True)])

    def x(self, sigma: float) -> Tensor:
        """The noised images [P, *S]."""
        return self.clean + sigma * self.noise

    def weights(self, sigma: float, temperature: float, k: int) -> Tensor:
        """Weights of the smoothed target over the k nearest, float64 [P, k] (Eq. 10)."""
        return optimal_weights(self._distance_sq(sigma, k), self.dim, temperature)

    def effective_weights(self, sigma: float, number: float, k: int) -> Tensor:
        """The same where `number` of them speak."""
        distance_sq = self._distance_sq(sigma, k).clamp_min(torch.finfo(torch.float64).tiny)
        temperature = solve_temperature(optimal_log_weight(distance_sq, self.dim), number)
        return optimal_weights(distance_sq, self.dim, temperature)

    def _distance_sq(self, sigma: float, k: int) -> Tensor:
        distance_sq = self._apart_sq + 2 * sigma * self._along + sigma**2 * self._noise_sq
        return distance_sq[:, :k].clamp_min(0)

    def weakest(self, sigmas: Sequence[float], numerator: float, k: int) -> tuple[float, float]:
        """The level where fewest neighbors count at T = max(numerator/σ, 1), and their number, median of points."""
        temperature = CollapseTemperature(numerator)
        medians = {s: float(effective_number(self.weights(s, temperature(s), k)).median()) for s in sigmas}
        level = min(medians, key=lambda sigma: medians[sigma])
        return level, medians[level]

    def collapse_level(self, score: EmpiricalScore, low: float, high: float, share: float) -> float | None:
        """The level below which one center holds more than `share` of the weight, median of points; None: neither."""

        def excess(sigma: float) -> float:
            return float(score.dominant(self.x(sigma), sigma).weight.median()) - share

        if excess(low) <= 0 or excess(high) > 0:
            return None
        return _crossing(excess, low, high, halvings=12)

    def least_numerator(self, sigmas: Sequence[float], k: int, wanted: float) -> float:
        """The smallest numerator of T = max(numerator/σ, 1) at which `wanted` neighbors count at every level."""
        high = max(sigmas)
        while self.weakest(sigmas, high, k)[1] < wanted:
            high *= 2
        return _crossing(lambda numerator: wanted - self.weakest(sigmas, numerator, k)[1], min(sigmas), high, _HALVINGS)


def nearest_images(centers: Centers, count: int, near: float, seed: int) -> tuple[Tensor, set[tuple[float, int, int]]]:
    """Distances of some images to their nearest other one, and the pairs that are near-duplicates.

    Args:
        centers: all images, without repeats.
        count: images that are looked at, drawn at random; their nearest other one is searched among all.
        near: near-duplicates are closer than this times the median distance.
        seed: of the draw.

    Returns:
        Distances [n], not squared, and pairs (distance, lower row, higher row).
    """
    rows = torch.randperm(centers.count, generator=torch.Generator().manual_seed(seed))[:count].sort().values
    distances, others = [], []
    for part in tqdm(torch.split(rows, 256), desc="nearest images", unit="batch"):
        found = centers.nearest(centers.data[part].view(len(part), *centers.shape), 2)
        distances.append(found.distance[:, 1])
        others.append(found.index[:, 1])
    distance, other = torch.cat(distances), torch.cat(others)
    close = distance < near * distance.median()
    named = zip(distance[close].tolist(), rows[close].tolist(), other[close].tolist(), strict=True)
    return distance, {(length, min(a, b), max(a, b)) for length, a, b in named}


def _crossing(excess: Callable[[float], float], low: float, high: float, halvings: int) -> float:
    """Where a falling function crosses 0, by halving log(high/low); the end at which it is not above 0."""
    for _ in range(halvings):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
