"""The noise that is actually in an image: found by a search of the training images, or told by the score itself."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.distances import decode
from smoothscore.samplers.rows import row_dot, row_norm
from smoothscore.samplers.search import NearestTracker

_SPREAD = 0.3  # root mean square of natural images about their mean, in pixel values of [0, 1]
_LEAST = 1e-6  # of the level expected, where a score points outwards
_ROWS = 1024  # training images that center and spread are taken from


def project_noise(x: Tensor, s: Tensor, center: Tensor | float = 0.5) -> Tensor:
    """Estimate σ* from the direction of the score: σ̂ = −⟨x − center, s⟩/(‖s‖ √d).

    A score points from the noise to the image, s ∝ −ε, however long it is: so the estimate needs neither the level
    that a network was told nor the length of what it returned. With x = μ + σ* ε it is off by ⟨ε, μ − center⟩/(‖ε‖√d),
    about spread/√d, where the score knows the image; where the noise is no more than the images differ among
    themselves, a network takes part of the image for noise, and the estimate stays above σ*.

    Args:
        x: noisy images [B, *S].
        s: their score, or any positive multiple of it, [B, *S].
        center: a typical image [*S], such as the training images' mean.

    Returns:
        [B], in the units of x; below 0 where the score points outwards.

    Source: arXiv 2601.19285, Sec. 5 (σ*), without its search.
    """
    length = row_norm(s).clamp_min_(torch.finfo(s.dtype).tiny)
    return row_dot(x - center, s).div_(length).div_(-math.sqrt(x[0].numel()))


def center_and_spread(data: Tensor) -> tuple[Tensor, float]:
    """Mean [*S] of up to 1,024 training images [M, *S], and their root mean square about it."""
    some = decode(data[:: -(-len(data) // _ROWS)])
    center = some.mean(0)
    return center, max(float((some - center).square().mean().sqrt()), torch.finfo(some.dtype).tiny)


class Found(NamedTuple):
    """What a score says once it is known."""

    sigma_star: Tensor  # [B]
    scale: Tensor  # [B], the level that turns the score into the noise it points from: F = −scale · s


class NoiseLevel(ABC):
    """σ* of a batch along a walk."""

    @abstractmethod
    def told(self, x: Tensor, expected: Tensor) -> Tensor:
        """The level [B] that the score is told at x; `expected` is what the last step should have left."""

    @abstractmethod
    def found(self, x: Tensor, s: Tensor, told: Tensor) -> Found:
        """σ* once the score is known."""


class Searched(NoiseLevel):
    """σ* = ‖x − nearest training image‖/√d."""

    def __init__(self, tracker: NearestTracker) -> None:
        self.tracker = tracker

    def told(self, x: Tensor, expected: Tensor) -> Tensor:
        """σ*, at least the smallest positive number of its type."""
        sigma = self.tracker(x).distance[:, 0].to(x.dtype) / math.sqrt(x[0].numel())
        return sigma.clamp_min(torch.finfo(x.dtype).tiny)

    def found(self, x: Tensor, s: Tensor, told: Tensor) -> Found:
        """σ* again."""
        return Found(told, told)


class Length(NoiseLevel):
    """σ* = √d/‖s‖: for a score that is the same whatever it is told, such as the training set's own."""

    def told(self, x: Tensor, expected: Tensor) -> Tensor:
        """What is expected; the score does not look at it."""
        return expected

    def found(self, x: Tensor, s: Tensor, told: Tensor) -> Found:
        """The length."""
        sigma = math.sqrt(x[0].numel()) / row_norm(s)
        return Found(sigma, sigma)


class Projected(NoiseLevel):
    """`project_noise` while it can be trusted, and what the last step should have left from there on.

    Args:
        center: a typical image.
        trust: level down to which the projection is believed.
    """

    def __init__(self, center: Tensor | float = 0.5, trust: float = _SPREAD) -> None:
        self.center, self.trust = center, trust

    def told(self, x: Tensor, expected: Tensor) -> Tensor:
        """What is expected."""
        return expected

    def found(self, x: Tensor, s: Tensor, told: Tensor) -> Found:
        """The projection, or what was expected."""
        projected = torch.maximum(project_noise(x, s, self.center), _LEAST * told)
        return Found(torch.where(told > self.trust, projected, told), told)


def noise_size(x: Tensor, center: Tensor | float = 0.5) -> Tensor:
    """‖x − center‖/√d [B]: σ* where noise is nearly all there is."""
    return row_norm(x - center).div_(math.sqrt(x[0].numel()))
