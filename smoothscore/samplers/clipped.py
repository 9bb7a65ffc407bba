"""Any sampler, with the denoised image kept where images can be."""

from collections.abc import Iterator
from copy import copy
from typing import Self

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler, Step
from smoothscore.samplers.projections import Box
from smoothscore.samplers.rows import per_image
from smoothscore.samplers.watch import Counted


class ClipDenoised(Sampler):
    """Any sampler, with the denoised image that its score implies clipped to the range of pixel values.

    s ← (clip(D) − x)/σ²,  D = x + σ² s(x, σ)

    The exact D is a weighted mean of training images, so it lies in the box that holds them all, and to clip a wrong D
    to this box brings it nearer to the exact one. What a network gets wrong in D is σ times what it gets wrong in F: at
    the start of a walk far more than images differ by. A later step can mend that only if the score sees it, and a
    blind network, which predicts noise of unit size whatever there is, does not. So few steps need this.

    Args:
        sampler: the walk.
        low: smallest pixel value.
        high: largest pixel value.

    Raises:
        UserError: unless low < high; when sampling, a score that is not sized by the σ it is told (`ignores_sigma`).

    Source: arXiv 2006.11239 clips so, in its code.
    """

    def __init__(self, sampler: Sampler, *, low: float = 0.0, high: float = 1.0) -> None:
        super().__init__(sampler.num_levels if sampler.num_levels > 1 else [1.0])
        self.sampler = sampler
        self.box = Box(low, high)

    def bind(self, sigma_min: float, sigma_max: float, data: Tensor | None = None) -> Self:
        """Return this sampler with the walk bound to a range and, where it searches, to the training images."""
        return self._around(self.sampler.bind(sigma_min, sigma_max, data))

    def thinned(self, num_levels: int) -> Self:
        """Return this sampler with a thinned walk."""
        return self._around(self.sampler.thinned(num_levels))

    @property
    def levels(self) -> list[float]:
        """Those of the walk."""
        return self.sampler.levels

    @property
    def num_steps(self) -> int | None:
        """Those of the walk."""
        return self.sampler.num_steps

    @property
    def trusts_schedule(self) -> bool:
        """As the walk does."""
        return self.sampler.trusts_schedule

    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step."""
        if score.ignores_sigma:
            raise UserError(
                "ClipDenoised takes x + σ² s for the denoised image, but this score ignores σ, so that it is none: "
                f"use {type(self.sampler).__name__} alone."
            )
        return self.sampler.walk(_Clipped(score, self.box), x, noise)

    def _around(self, sampler: Sampler) -> Self:
        around = copy(self)
        around.sampler, around.num_levels = sampler, sampler.num_levels
        return around


class _Clipped(Counted):
    """A score whose denoised image lies in the box."""

    def __init__(self, score: Counted, box: Box) -> None:
        super().__init__(score)
        self.box = box

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Return s + (clip(D) − D)/σ²: the score itself, bit for bit, where D is in the box."""
        if not isinstance(sigma, Tensor):
            sigma = x.new_full((len(x),), sigma)
        s, variance = self.score(x, sigma), per_image(sigma.square(), x)
        denoised = torch.addcmul(x, variance, s)
        return torch.addcdiv(s, self.box(denoised) - denoised, variance)
