"""The temperature as a function of the noise level."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Self, TypeVar

from torch import Tensor

from smoothscore.errors import UserError

Sigma = TypeVar("Sigma", float, Tensor)


@dataclass(frozen=True)
class Temperature(ABC):
    """T as a function of σ: a callable that takes a float or a tensor of noise levels and returns the like."""

    @abstractmethod
    def __call__(self, sigma: Sigma) -> Sigma:
        """T(σ), elementwise, for noise levels of any shape."""

    def bind(self, dim: int) -> Self:
        """The same temperature for images of d = `dim` values; only the √d and d temperatures change."""
        return self


@dataclass(frozen=True)
class ConstantTemperature(Temperature):
    """T(σ) = T. Source: arXiv 2601.19285, Sec. B.4.4."""

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(f"temperature is {self.temperature}, but it must be above 0 (1 is no smoothing).")

    def __call__(self, sigma: Sigma) -> Sigma:
        """T at every σ."""
        return sigma * 0 + self.temperature


@dataclass(frozen=True)
class CollapseTemperature(Temperature):
    """T(σ) = max(σ_collapse/σ, 1): hotter where the noise is lower. Source: arXiv 2601.19285, Eq. (11)."""

    sigma_collapse: float

    def __post_init__(self) -> None:
        if not self.sigma_collapse > 0:
            raise UserError(f"sigma_collapse is {self.sigma_collapse}, but it must be above 0; the paper uses 1 to 10.")

    def __call__(self, sigma: Sigma) -> Sigma:
        """max(σ_collapse/σ, 1)."""
        if isinstance(sigma, Tensor):
            return (self.sigma_collapse / sigma).clamp_min(1)
        return max(self.sigma_collapse / sigma, 1.0)


@dataclass(frozen=True)
class RootDimTemperature(Temperature):
    """T(σ) = √d, with d the values per image; a module fills in d where it is None. Source: Sec. B.4.4."""

    dim: int | None = None

    def bind(self, dim: int) -> Self:
        """The same temperature with d filled in, unless it is given already."""
        return self if self.dim is not None else replace(self, dim=dim)

    def __call__(self, sigma: Sigma) -> Sigma:
        """√d or d at every σ."""
        return sigma * 0 + self._value(self._known_dim())

    def _known_dim(self) -> int:
        if self.dim is None or self.dim < 1:
            raise UserError(f"{type(self).__name__} needs the values per image: give dim (it is {self.dim}).")
        return self.dim

    @staticmethod
    def _value(dim: int) -> float:
        return math.sqrt(dim)


@dataclass(frozen=True)
class DimTemperature(RootDimTemperature):
    """T(σ) = d, with d the values per image; a module fills in d where it is None. Source: Sec. B.4.4."""

    @staticmethod
    def _value(dim: int) -> float:
        return float(dim)
