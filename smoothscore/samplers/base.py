"""What every sampler shares: the walk from noise to image, its levels and its checks."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.samplers.noise import generators, sample_noise
from smoothscore.samplers.watch import Counted, FiniteWatch, Score, is_blind
from smoothscore.schedules import log_uniform


class Step(NamedTuple):
    """Where a walk stands after a step, and what it went by."""

    x: Tensor  # [B, *S]
    sigma: float | Tensor  # the noise level reached, a number or one per sample [B]
    sigma_star: Tensor | None = None  # σ* [B] that the step took x to have before it, where it was looked for


class Sampler(ABC):
    """Turns noise into images by following a score; a new sampler writes `walk` and nothing else.

    Args:
        sigmas: the noise levels, ascending, as a tensor or list; or a number N, which stands for N levels equal in
            log σ over a range that `bind` supplies.

    Attributes:
        nfe: calls of the score, each on the whole batch, in the last `sample`.

    Raises:
        UserError: the levels are not a list of positive, strictly ascending, finite numbers.

    Source: arXiv 2601.19285, Sec. 5.
    """

    def __init__(self, sigmas: Tensor | Sequence[float] | int) -> None:
        self.nfe = 0
        self._levels = None if isinstance(sigmas, int) else descending(sigmas)
        self.num_levels = sigmas if isinstance(sigmas, int) else len(sigmas)
        if self._levels is None and self.num_levels < 2:
            raise UserError(f"sigmas is {sigmas}: as a number of levels it must be at least 2.")

    def __repr__(self) -> str:
        options = ", ".join(f"{name.lstrip('_')}={value!r}" for name, value in vars(self).items() if name != "nfe")
        return f"{type(self).__name__}({options})"

    def bind(self, sigma_min: float, sigma_max: float, data: Tensor | None = None) -> Self:
        """Return this sampler with a number of levels turned into levels over [σ_min, σ_max].

        A sampler that was given its levels is returned as it is: what the user named wins. `data` [M, *S] are the
        training images, for samplers that search them.

        Raises:
            UserError: unless 0 < sigma_min < sigma_max.
        """
        if self._levels is not None:
            return self
        bound = copy(self)
        bound._levels = descending(log_uniform(sigma_min, sigma_max, self.num_levels))
        return bound

    def thinned(self, num_levels: int) -> Self:
        """Return this sampler with every n-th of its levels, about `num_levels` of them: for a look at a long walk."""
        every = -(-(len(self.levels) - 1) // num_levels)
        thin = copy(self)
        thin._levels = [*self.levels[:-1:every], self.levels[-1]]
        thin.num_levels = len(thin._levels) - 1
        return thin

    @property
    def levels(self) -> list[float]:
        """Noise levels from σ_max down, ending in 0.

        Raises:
            UserError: the sampler knows only their number.
        """
        if self._levels is None:
            raise UserError(
                f"{type(self).__name__} has a number of levels ({self.num_levels}) and no range: "
                "call bind(sigma_min, sigma_max), or pass the levels themselves as sigmas."
            )
        return self._levels

    @property
    def sigma_max(self) -> float:
        """Noise level of the start."""
        return self.levels[0]

    @property
    def num_steps(self) -> int | None:
        """Steps that `walk` takes, None where it is not known beforehand."""
        return self.num_levels

    @property
    def trusts_schedule(self) -> bool:
        """Whether the schedule alone sizes the steps and nothing corrects them: what a blind score cannot bear."""
        return False

    @abstractmethod
    def walk(self, score: Counted, x: Tensor, noise: Iterator[Tensor]) -> Iterator[Step]:
        """Yield the state after each step, from x [B, *S] at σ_max to the image.

        Args:
            score: (x, sigma) -> [B, *S], where sigma is a number or [B]; calls are counted.
            x: the start.
            noise: yields fresh unit noise [B, *S] without end.
        """

    @torch.no_grad()
    def sample(
        self,
        score: Score,
        shape: Sequence[int],
        seeds: Sequence[int] | None = None,
        device: torch.device | str | None = None,
        *,
        start: Tensor | None = None,
        progress: bool = False,
        on_step: Callable[[int, Step], None] | None = None,
    ) -> Tensor:
        """Draw images: x = σ_max z, then step after step down to σ = 0.

        Each sample has a noise generator of its own, so with a score that treats samples one by one it comes out the
        same, bit for bit, in any batch and on any number of processes.

        Args:
            score: (x [B, *S], sigma [B]) -> [B, *S], in the units of images in [0, 1].
            shape: [B, *S].
            seeds: one integer per sample; None draws them from torch's global generator.
            device: where to sample; None is that of the start, or torch's default device. The same seed gives
                different noise on CPU and GPU.
            start: begin at this x [B, *S] instead of σ_max z. Its type is kept, but for half precision: the state of
                a walk is float32 at least, whatever the score computes in.
            progress: show a bar.
            on_step: called with the number of the step and its `Step`, to record a trajectory.

        Returns:
            [B, *S] in the units of images in [0, 1], not clamped.

        Raises:
            UserError: the seeds or the start do not fit the shape, the score returns another shape, or the state
                becomes NaN or infinite (the step and σ are named).

        Warns:
            UserWarning: the score is blind, and the steps are sized by the schedule alone.
        """
        shape = tuple(shape)
        if len(shape) < 2 or min(shape) < 1:
            raise UserError(f"shape is {shape}: give [batch, *image shape], each at least 1.")
        if start is not None and tuple(start.shape) != shape:
            raise UserError(f"start has shape {tuple(start.shape)}, but shape is {shape}.")
        if self.trusts_schedule and is_blind(score):
            warnings.warn(
                f"{type(self).__name__} steps by its schedule alone, but the score never sees σ: where the noise in "
                "the image falls below the schedule, the steps overshoot. Take ActualNoise, or PredictorCorrector with "
                "a predictor that adds noise or at least one corrector step.",
                stacklevel=3,  # torch.no_grad() wraps this method
            )
        if device is None:
            device = torch.get_default_device() if start is None else start.device
        device = torch.device(device)
        dtype = torch.float32 if start is None else torch.promote_types(start.dtype, torch.float32)
        noise = sample_noise(generators(seeds, shape[0], device), shape[1:], dtype)
        x = self.sigma_max * next(noise) if start is None else start.to(device, dtype)
        counted = Counted(score)
        finite = FiniteWatch(1 if device.type == "cpu" else 32, self.sigma_max)
        with tqdm(total=self.num_steps, disable=not progress, desc=type(self).__name__, unit="step") as bar:
            try:
                for number, step in enumerate(self.walk(counted, x, noise), start=1):
                    finite.see(number, step.sigma, step.x)
                    if on_step is not None:
                        on_step(number, step)
                    bar.update()
                    x = step.x
            finally:
                finite.settle()  # also where a walk stumbles over what is not finite before it is looked for
        self.nfe = counted.nfe
        return x


def descending(sigmas: Tensor | Sequence[float]) -> list[float]:
    """Ascending noise levels turned round, with a final 0.

    Raises:
        UserError: they are not a list of positive, strictly ascending, finite numbers.
    """
    levels = torch.as_tensor(sigmas, dtype=torch.float64)
    if levels.ndim != 1 or len(levels) == 0:
        raise UserError(f"sigmas has shape {tuple(levels.shape)}: give a list of at least one noise level.")
    if not (levels.isfinite() & (levels > 0)).all():
        raise UserError(f"sigmas holds {levels[~(levels.isfinite() & (levels > 0))][0]:.4g}: every level must be > 0.")
    rise = levels.diff() > 0
    if not rise.all():
        at = int((~rise).nonzero()[0, 0])
        raise UserError(
            f"sigmas must ascend strictly, but level {at} is {levels[at]:.6g} and the next {levels[at + 1]:.6g}: "
            "sort them (log_uniform and shell_touch return them in order)."
        )
    return [*levels.flip(0).tolist(), 0.0]
