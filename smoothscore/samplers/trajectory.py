"""A record of a walk: what was where, step by step."""

import torch
from torch import Tensor

from smoothscore.samplers.base import Step
from smoothscore.samplers.rows import row_rms


class Trajectory:
    """Records a walk, as `sampler.sample(…, on_step=trajectory)`; the figures stay on their device until asked for.

    Args:
        states: also keep x after every `states`-th step, 0 for none.

    Attributes:
        numbers: of the steps whose states were kept.
        states: those states, each [B, *S], on the CPU.
    """

    def __init__(self, *, states: int = 0) -> None:
        self.every = states
        self.numbers: list[int] = []
        self.states: list[Tensor] = []
        self._sigma: list[Tensor] = []
        self._sigma_star: list[Tensor] = []
        self._size: list[Tensor] = []
        self._moved: list[Tensor] = []
        self._before: Tensor | None = None

    def __call__(self, number: int, step: Step) -> None:
        """Take note of a step."""
        x = step.x
        unknown = x.new_full((len(x),), torch.nan)
        level = step.sigma
        self._sigma.append(level if isinstance(level, Tensor) else torch.full_like(unknown, level))
        self._sigma_star.append(unknown if step.sigma_star is None else step.sigma_star)
        self._size.append(row_rms(x))
        self._moved.append(unknown if self._before is None else row_rms(x - self._before))
        self._before = x
        if self.every and number % self.every == 0:
            self.numbers.append(number)
            self.states.append(x.cpu())

    @property
    def sigma(self) -> Tensor:
        """Noise level reached by each step, [n, B]."""
        return torch.stack(self._sigma)

    @property
    def sigma_star(self) -> Tensor:
        """σ* that each step took x to have before it, [n, B]; NaN where a sampler does not look for it."""
        return torch.stack(self._sigma_star)

    @property
    def size(self) -> Tensor:
        """‖x‖/√d after each step, [n, B]."""
        return torch.stack(self._size)

    @property
    def moved(self) -> Tensor:
        """‖Δx‖/√d of each step, [n, B]; NaN for the first."""
        return torch.stack(self._moved)
