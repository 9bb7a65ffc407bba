"""What samplers share that follow the noise in the image and no schedule."""

import math
from copy import copy
from typing import Literal, Self

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.samplers.base import Sampler
from smoothscore.samplers.noise_level import Length, NoiseLevel, Projected, Searched, center_and_spread
from smoothscore.samplers.search import NearestSearch
from smoothscore.samplers.watch import Counted

NoiseFrom = Literal["search", "score"]


class Unscheduled(Sampler):
    """A sampler that starts at σ_max and finds its own way down by σ*, the noise that is actually in x.

    Args:
        data: training images [M, *S], float, or uint8 meaning value/255.
        noise: "search" takes σ* from the nearest of `data`; "score" from the score, `data` giving only a mean image
            and its spread; None searches where there are data.
        num_steps: most steps.
        sigma_max: noise level of the start; None takes the model's.
        trust: with noise="score", the level below which σ* is what the last step should have left, not an estimate;
            None takes the spread of the training images, or 0.3 without any.

    Raises:
        UserError: num_steps < 1, σ_max or trust not above 0, or an unknown `noise`.
    """

    def __init__(
        self,
        data: Tensor | None,
        *,
        noise: NoiseFrom | None,
        num_steps: int,
        sigma_max: float | None,
        trust: float | None,
    ) -> None:
        name = type(self).__name__
        if num_steps < 1:
            raise UserError(f"{name}: the number of steps is {num_steps}, but it must be at least 1.")
        for option, value in (("sigma_max", sigma_max), ("trust", trust)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name}: {option} is {value}, but a noise level is finite and above 0.")
        if noise not in (None, "search", "score"):
            raise UserError(f'{name}: noise is "{noise}"; it must be "search" or "score".')
        super().__init__(2)
        self._levels = None if sigma_max is None else [float(sigma_max), 0.0]
        self.num_levels = num_steps
        self.noise: NoiseFrom | None = noise
        self.trust = trust
        self._search: NearestSearch | None = None
        self._center: Tensor | None = None
        self._spread: float | None = None
        if data is not None:
            self._take(data)

    def _take(self, data: Tensor) -> None:
        if self.noise == "score":
            self._center, self._spread = center_and_spread(data)
        else:
            self._search = NearestSearch(data)

    def bind(self, sigma_min: float, sigma_max: float, data: Tensor | None = None) -> Self:
        """Return this sampler with σ_max, and with the training images where it has none and looks at them."""
        bound = copy(self)
        bound._levels = self._levels or [float(sigma_max), 0.0]
        if data is not None and self.noise is not None and self._search is None and self._center is None:
            bound._take(data)
        return bound

    def thinned(self, num_levels: int) -> Self:
        """Return this sampler with fewer steps: for a look at a long walk."""
        thin = copy(self)
        thin.num_levels = min(num_levels, self.num_levels)
        return thin

    def _noise_level(self, score: Counted, device: torch.device) -> NoiseLevel:
        """What finds σ* on a walk of one batch."""
        if self.noise == "search" and self._search is None:
            raise UserError(
                f"{type(self).__name__} searches the training images for σ* and has none: pass them as data, or set "
                'noise="score".'
            )
        if self._search is not None:
            self._search = self._search.to(device)  # kept there for the next batch
            return Searched(self._search.track())
        if score.ignores_sigma:
            return Length()
        center = 0.5 if self._center is None else self._center.to(device)
        trust = self.trust or self._spread
        return Projected(center) if trust is None else Projected(center, trust)
