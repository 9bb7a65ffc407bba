"""What a walk is watched for: calls of the score, the shape of what it returns, and numbers that are none."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smoothscore.errors import UserError

Score = Callable[[Tensor, Tensor], Tensor]
"""(x [B, *S], sigma [B], both on one device) -> score [B, *S]."""


def says(score: Score, name: str) -> bool | None:
    """What a score, or the object whose method it is, says of itself under a name; None where it says nothing."""
    for carrier in (score, getattr(score, "__self__", None)):
        said = getattr(carrier, name, None)
        if said is not None:
            return bool(said)
    return None


def is_blind(score: Score) -> bool:
    """Whether a score says `conditioned = False`: that it never looks at σ, but to scale what a network returns."""
    return says(score, "conditioned") is False


class Counted:
    """A score that counts its calls, spreads a single σ over the batch, and checks the shape it returns."""

    def __init__(self, score: Score) -> None:
        self.score = score
        self.nfe = 0
        self.ignores_sigma = says(score, "ignores_sigma") is True  # not even to scale what it returns

    def __call__(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Score at x [B, *S] and σ (a number or [B]), in x's type."""
        self.nfe += 1
        if not isinstance(sigma, Tensor):
            sigma = x.new_full((len(x),), sigma)
        value = self.score(x, sigma)
        if value.shape != x.shape:
            raise UserError(
                f"the score returned shape {tuple(value.shape)} for x of shape {tuple(x.shape)}: "
                "a score must return one value per value of x."
            )
        return value.to(x.dtype)


class NotFiniteError(UserError):
    """A walk's state is NaN or infinite."""


class FiniteWatch:
    """Stops a walk whose state is NaN or infinite; looks at the device only every `every` steps."""

    def __init__(self, every: int, start: float = math.nan) -> None:
        self.every = every
        self.seen: list[tuple[int, float | Tensor, Tensor]] = []
        self.last = start  # the level before those

    def see(self, number: int, sigma: float | Tensor, x: Tensor) -> None:
        """Note a step; the sum of x is finite unless some x is not (or x is near overflow)."""
        self.seen.append((number, sigma, x.sum()))
        if len(self.seen) >= self.every:
            self.settle()

    def settle(self) -> None:
        """Check the steps noted.

        Raises:
            NotFiniteError: one of them holds a NaN or an infinity.
        """
        if not self.seen:
            return
        good = torch.stack([total for _, _, total in self.seen]).isfinite().tolist()
        if not all(good):
            at = good.index(False)
            ends, begins = (level_of(self.seen[i][1]) if i >= 0 else self.last for i in (at, at - 1))
            where = f"begins at σ = {begins:.4g}" if math.isnan(ends) else f"ends at σ = {ends:.4g}"
            raise NotFiniteError(
                f"sampling left the finite numbers at step {self.seen[at][0]}, which {where}: "
                "the score returned NaN or infinity there, or the steps are too large for it (take more levels)."
            )
        self.last = level_of(self.seen[-1][1])
        self.seen.clear()


def level_of(sigma: float | Tensor) -> float:
    """The highest of a batch's levels; NaN where one of them is."""
    return float(sigma.max()) if isinstance(sigma, Tensor) else sigma
