"""Constraints as projections: the nearest point that satisfies them, for `GradientAscent(project=…)`."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from smoothscore.errors import UserError


class Projection(ABC):
    """A constraint; any callable from x to the nearest x that satisfies it does as well, this one YAML can name."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The nearest x [B, *S] that satisfies it."""


class KnownRegion(Projection):
    """Keep the known pixels of an image: x where the mask is False, `image` where it is True (inpainting).

    Args:
        image: [*S] or [B, *S], in the units of x.
        mask: bool, of a shape that broadcasts to the image's; True is known.

    Raises:
        UserError: a mask that is not bool or does not fit.
    """

    def __init__(self, image: Tensor, mask: Tensor) -> None:
        if mask.dtype != torch.bool:
            raise UserError(f"KnownRegion: the mask is {mask.dtype}, but it must be bool, True where known.")
        if any(m not in (1, n) for m, n in zip(reversed(mask.shape), reversed(image.shape), strict=False)):
            raise UserError(
                f"KnownRegion: the mask has shape {list(mask.shape)}, which does not fit the image's, "
                f"{list(image.shape)}."
            )
        self.image, self.mask = image, mask

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest x [B, *S] with the known pixels."""
        return torch.where(self.mask.to(x.device), self.image.to(x), x)


class LinearMeasurement(Projection):
    """Keep what was measured, A x = y: x ← x + A⁺(y − A x), A⁺ the pseudo-inverse.

    Applied twice, so that float32 keeps A x = y to its last digits also where x was far from it.

    Args:
        matrix: A [m, d], of independent rows, d the number of values of an image.
        measured: y [m], or [B, m].

    Raises:
        UserError: shapes that do not fit, or rows that are not independent.
    """

    def __init__(self, matrix: Tensor, measured: Tensor) -> None:
        if matrix.ndim != 2 or measured.shape[-1:] != matrix.shape[:1]:
            raise UserError(
                f"LinearMeasurement: the matrix has shape {list(matrix.shape)} and the measurement "
                f"{list(measured.shape)}: give [m, d] and [m]."
            )
        wide = matrix.double()
        rank = int(torch.linalg.matrix_rank(wide))
        if rank < len(wide):
            raise UserError(
                f"LinearMeasurement: of the {len(wide)} rows of the matrix only {rank} are independent: drop the rest."
            )
        self.matrix, self.measured, self.inverse = wide, measured.double(), torch.linalg.pinv(wide)

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest x [B, *S] with the same measurement."""
        matrix, measured, inverse = (part.to(x.device) for part in (self.matrix, self.measured, self.inverse))
        for _ in range(2):
            flat = x.flatten(1).double()
            x = (flat + (measured - flat @ matrix.T) @ inverse.T).view(x.shape).to(x.dtype)
        return x


class Box(Projection):
    """Keep every value within bounds: x ← min(max(x, low), high).

    Raises:
        UserError: unless low < high.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0) -> None:
        if not low < high:
            raise UserError(f"Box: low is {low} and high {high}: low must be below high.")
        self.low, self.high = low, high

    def __repr__(self) -> str:
        return f"Box(low={self.low!r}, high={self.high!r})"

    def __call__(self, x: Tensor) -> Tensor:
        """The nearest x within the box."""
        return x.clamp(self.low, self.high)
