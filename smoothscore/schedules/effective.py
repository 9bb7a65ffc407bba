"""How many neighbors speak, in place of a temperature: by noise level, by local density, by class."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from smoothscore.errors import UserError

Number = float | Tensor | Callable[[Tensor], Tensor]


class EffectiveNeighbors:
    """The temperature, for every sample its own, at which n neighbors speak: exp(−Σ_k w_k ln w_k) = n.

    A stand-in for a temperature wherever one is taken: `smoothed_target`, `Tempered`, `TemperatureSmoothed`. Where a
    `Temperature` knows only σ, this looks at the distances of each sample, so it smooths as much at every noise level
    and on every data set. n = K is the plain mean; toward n = 1 the nearest neighbor alone is left, which is the
    denoising target wherever the clean image is the nearest. The temperature may also lie below 1: where more than n
    neighbors speak by themselves, as at large σ, they are brought down to n. Among m equally near nearest neighbors no
    temperature tells one from another: below n = m all m speak alike, so m do.

    Args:
        n: from 1 to K: a number, one for each sample [B], or a function from noise levels [B] to [B].
        fade: noise level at which the excess n − 1 is halved, n(σ) = 1 + (n − 1)/(1 + (σ/fade)²), so that n goes to 1
            at large σ; None keeps n at every σ.

    Raises:
        UserError: n below 1 or not finite, fade ≤ 0, both a function and fade; where it is used, n above K.
    """

    def __init__(self, n: Number, *, fade: float | None = None) -> None:
        if isinstance(n, int | float) and not 1 <= n < math.inf:
            raise UserError(f"n is {n}, but it counts neighbors: give from 1 (denoising) to K (the plain mean).")
        if fade is not None and not fade > 0:
            raise UserError(f"fade is {fade}, but it is a noise level: give one above 0, or None to keep n.")
        if fade is not None and callable(n):
            raise UserError("n is a function of σ already, and fade would change it again: drop one of the two.")
        self.n = n
        self.fade = fade

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"

    def number(self, sigma: Tensor) -> Tensor:
        """The n at noise levels [B], float32 [B]."""
        sigma = sigma.float()
        if callable(self.n):
            return torch.as_tensor(self.n(sigma), dtype=torch.float32, device=sigma.device).expand_as(sigma)
        n = torch.as_tensor(self.n, dtype=torch.float32, device=sigma.device).expand_as(sigma)
        return n if self.fade is None else 1 + (n - 1) / (1 + (sigma / self.fade) ** 2)

    def of_images(self, distances: Tensor, labels: Tensor) -> Tensor | None:
        """The n of every training image before `fade`, None where all have the same; override this for a local rule.

        Args:
            distances: [M, K] of every training image to its neighbors, itself first, in the space of the table.
            labels: [M] their classes.

        Returns:
            [M], or None.
        """
        return None


class DensityNeighbors(EffectiveNeighbors):
    """n by the local density: n_i = 1 + (n − 1) (d_i/d̄)^power, at most K.

    d_i is the distance from training image i to its k-th neighbor and d̄ the median of them. power = −1 blurs every
    image by about the same distance, since fewer speak where they are far; a positive power lets more speak for the
    images that lie alone, which are copied most easily.

    Args:
        n: of an image with the median density, a number.
        power: of the distance.
        rank: k, from 1 for the nearest other image; None is the last of the table.
        fade: as in `EffectiveNeighbors`.

    Raises:
        UserError: besides `EffectiveNeighbors`', rank < 1, or beyond the table where it is used.
    """

    def __init__(self, n: float, *, power: float = -1.0, rank: int | None = None, fade: float | None = None) -> None:
        super().__init__(n, fade=fade)
        if rank is not None and rank < 1:
            raise UserError(f"rank is {rank}: give 1 for the nearest other image, or more.")
        self.power = power
        self.rank = rank

    def of_images(self, distances: Tensor, labels: Tensor) -> Tensor:
        """See `EffectiveNeighbors`."""
        k = distances.shape[1]
        rank = k - 1 if self.rank is None else self.rank
        if not 1 <= rank < k:
            raise UserError(
                f"rank is {rank}, but the table holds {k - 1} neighbors beside the image: give from 1 to {k - 1}."
            )
        distance = distances[:, rank].double()
        middle = distance.median()
        if not bool(middle > 0):
            raise UserError(
                f"The median distance to neighbor {rank} is 0, since half of the images are copies: raise rank."
            )
        assert isinstance(self.n, int | float)
        # copies lie at distance 0, where a negative power is infinite: all K speak
        return (1 + (self.n - 1) * (distance / middle) ** self.power).nan_to_num(1.0).clamp(1, k).float()


class ClassNeighbors(EffectiveNeighbors):
    """n by class.

    Args:
        n: of every class that is not named, a number.
        by_class: n by label.
        fade: as in `EffectiveNeighbors`.

    Raises:
        UserError: besides `EffectiveNeighbors`', an n below 1 in by_class, or a label that no image has.
    """

    def __init__(self, n: float, *, by_class: Mapping[int, float], fade: float | None = None) -> None:
        super().__init__(n, fade=fade)
        for label, number in by_class.items():
            if not 1 <= number < math.inf:
                raise UserError(
                    f"by_class gives class {label} n = {number}, but it counts neighbors: give from 1 to K."
                )
        self.by_class = dict(by_class)

    def of_images(self, distances: Tensor, labels: Tensor) -> Tensor:
        """See `EffectiveNeighbors`."""
        assert isinstance(self.n, int | float)
        number = torch.full(labels.shape, float(self.n), device=labels.device)
        for label, n in self.by_class.items():
            members = labels == int(label)
            if not bool(members.any()):
                raise UserError(f"by_class names class {label}, but no training image has that label: remove it.")
            number[members] = n
        return number
