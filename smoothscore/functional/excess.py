"""Excess copies: are samples nearer to the training images than fresh images would be, where images are as dense?

A fixed threshold on a ratio of distances means something else in every data set. Here held-out images say what is
usual, at matched local density and in several feature spaces at once, so that the measure also speaks in dense data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional.closeness import Space
from smoothscore.functional.intervals import wilson_interval
from smoothscore.functional.ranks import DRAWS, conformal_p_values, false_discovery, lowest_ranks_test, marked_sum_test

Rows = Tensor | Mapping[str, Tensor]

_REFERENCE = 3  # one held-out image in so many measures density, the others calibrate


class CopyScores(NamedTuple):
    """What is kept of every sample, [n] or [n, number of spaces].

    Attributes:
        score: lowest z of all scales and spaces, float64 [n]: low where a sample is unusually near to a training image.
        nearest: row of the nearest training image in the space of that z, int64 [n].
        place: nearest image of training and held-out ones together, int64 [n, S]: a training row, or M + held-out row.
        weight: how much nearer it is than the next ones, log(mean/first), float64 [n, S].
    """

    score: Tensor
    nearest: Tensor
    place: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class ExcessCopies:
    """Result of :func:`excess_copies`.

    Attributes:
        p_value: of the hypothesis that samples are no nearer to the training images than fresh images are.
        label_p_value: of the hypothesis that the model cannot know which of all images it was trained on. It holds for
            samples of any kind, also for blurred or few ones, but takes more copies to be small.
        excess: share of the samples that fresh images do not explain.
        interval: (low, high), its 95 % interval.
        sample_p: p-value of every sample, [n], float64.
        flagged: bool [n], samples of which at most ``fdr`` are expected to be fresh.
        nearest: row of the training image that each sample would be a copy of, [n], int64.
        score: of every sample, [n], float64.
        calibration: scores of held-out images, [m], float64.
        level: p-values up to this one make the excess.
        fdr: of ``flagged``.
    """

    p_value: float
    label_p_value: float
    excess: float
    interval: tuple[float, float]
    sample_p: Tensor
    flagged: Tensor
    nearest: Tensor
    score: Tensor
    calibration: Tensor
    level: float
    fdr: float


class CopyReference:
    """Training and held-out images made ready for any number of samples.

    Args, errors: those of :func:`excess_copies`.

    Attributes:
        calibration: scores of the held-out images that calibrate, [m], float64.
    """

    def __init__(self, train: Rows, held_out: Rows, *, neighbors: int = 3, seed: int = 0) -> None:
        known, fresh = as_spaces(train), as_spaces(held_out)
        if list(known) != list(fresh):
            raise UserError(f"train has the spaces {list(known)}, held_out {list(fresh)}: give both the same.")
        self.num_train, self.num_held_out = (_one_length(n, s) for n, s in (("train", known), ("held_out", fresh)))
        count = self.num_held_out // _REFERENCE
        if neighbors < 1 or count < neighbors + 2:
            raise UserError(
                f"neighbors is {neighbors}, but a third of the {self.num_held_out} held-out images measures density: "
                f"give at least {_REFERENCE * (neighbors + 2)} held-out images, and neighbors of at least 1."
            )
        order = torch.randperm(self.num_held_out, generator=torch.Generator().manual_seed(seed))
        reference, rest = order[:count], order[count:]
        self._spaces = {
            name: Space(name, known[name], fresh[name], reference.to(fresh[name].device), neighbors, seed)
            for name in known
        }
        own = [space.z(rows[rest.to(rows.device)]) for space, rows in self._pairs(fresh)]
        self.calibration = torch.stack(own).amin(0)

    def score(self, samples: Rows) -> CopyScores:
        """Look at samples [n, *S]; parts of one set may be looked at one after the other.

        Raises:
            UserError: other spaces or shapes than the training images, or a NaN (its row is named).
        """
        spaces = as_spaces(samples)
        if list(spaces) != list(self._spaces):
            raise UserError(f"samples have the spaces {list(spaces)}, train {list(self._spaces)}: give both the same.")
        _one_length("samples", spaces)
        z, index, place, weight = zip(*(space.look(rows) for space, rows in self._pairs(spaces)), strict=True)
        lowest, which = torch.stack(z).min(0)
        nearest = torch.stack(index).gather(0, which[None])[0]
        return CopyScores(lowest, nearest, torch.stack(place, 1), torch.stack(weight, 1))

    def report(
        self, scores: CopyScores, *, level: float = 0.05, fdr: float = 0.1, draws: int = DRAWS, seed: int = 0
    ) -> ExcessCopies:
        """Test all samples that were looked at.

        Raises:
            UserError: level or fdr out of range, too few held-out images for the level, or no samples.
        """
        if not len(scores.score):
            raise UserError("samples: 0 row(s), but at least 1 needed; give more images.")
        calibration = self.calibration.to(scores.score.device)
        for name, value in (("level", level), ("fdr", fdr)):
            if not 0 < value < 1:
                raise UserError(f"{name} is {value}, but it must lie between 0 and 1.")
        usual = int(level * (len(calibration) + 1) + 1e-9)
        if usual < 1:
            raise UserError(
                f"level is {level}, but with {self.num_held_out} held-out images no p-value is below "
                f"{1 / (len(calibration) + 1):.2g}: give more of them, or a higher level."
            )
        p = conformal_p_values(scores.score, calibration)
        excess, interval = _excess(int((p <= level).sum()), len(p), usual, len(calibration))
        amount = torch.zeros(self.num_train + self.num_held_out, dtype=torch.float64, device=scores.weight.device)
        amount.index_add_(0, scores.place.flatten(), scores.weight.flatten())
        named = amount.nonzero()[:, 0]
        label_p = marked_sum_test(
            amount[named], named < self.num_train, self.num_train, len(amount), draws=draws, seed=seed
        )
        return ExcessCopies(
            lowest_ranks_test(scores.score, calibration, draws=draws, seed=seed),
            label_p,
            excess,
            interval,
            p,
            false_discovery(p, fdr),
            scores.nearest,
            scores.score,
            calibration,
            level,
            fdr,
        )

    def _pairs(self, rows: Mapping[str, Tensor]) -> Sequence[tuple[Space, Tensor]]:
        return [(space, rows[name]) for name, space in self._spaces.items()]


def excess_copies(
    samples: Rows,
    train: Rows,
    held_out: Rows,
    *,
    neighbors: int = 3,
    level: float = 0.05,
    fdr: float = 0.1,
    draws: int = DRAWS,
    seed: int = 0,
) -> ExcessCopies:
    """Test whether samples are nearer to the training images than fresh images would be, at matched local density.

    T(x) = log max(d(x)/s(x), 1/100), with d the distance to the nearest training image and s what is usual around x, in
    two ways: the mean distance to the k nearest of R, a random third of the held-out images, which no twins among the
    training images can hide; and the distance to the second nearest training image, which is sharper where there are
    none. How T depends on density is a line fitted on R, T ≈ a + b log s, each image of R left out of its own s;
    z(x) = (T − a − b log s)/deviation. The score of x is the lowest z of both scales and all spaces. The other held-out
    images, C, calibrate:

    * per sample p = (1 + #{c ∈ C : score_c ≤ score_x})/(|C| + 1), valid because a fresh x is exchangeable with C while
      training images and R are as they are; ``flagged`` by Benjamini and Hochberg.
    * ``p_value``: exact rank test of all samples against C (see `lowest_ranks_test`), which depends on no independence
      of their p-values: those share C and the training images.
    * excess = (F − β)/(1 − β), F the share of samples with p ≤ level and β = ⌊level (|C| + 1)⌋/(|C| + 1) that of fresh
      images; its interval joins Wilson intervals of F and β by Newcombe's rule.
    * ``label_p_value``: give every sample's nearest image, of training and held-out ones together, the weight
      log(mean distance of the next/its distance), and deal the labels "trained on" at random: exact for any model, as
      long as which images were held out was chosen at random.

    Args:
        samples: [n, *S], uint8 (meaning value/255) or floating point; or a mapping from the names of spaces to the same
            images in each, such as {"pixels": [n, C, H, W], "lite0": [n, F]}.
        train: [M, *S], likewise, at least 2.
        held_out: [N, *S], likewise; drawn as the training images were, and never trained on.
        neighbors: k of the density.
        level: of the excess.
        fdr: of the flagged samples. None can be flagged where copies are fewer than n/(fdr (|C| + 1)).
        draws: of the nulls of the model's two p-values, which are 1/(draws + 1) at least.
        seed: of the division of the held-out images and of the draws.

    Returns:
        An :class:`ExcessCopies`.

    Raises:
        UserError: an option out of range, too few held-out images, different spaces, lengths or shapes, or a NaN (its
            row is named).

    Source: conformal p-values after Bates et al. 2023 (arXiv 2104.08279); the question is that of arXiv 2601.19285,
    Sec. 6, and of the data-copying test of Meehan et al. 2020 (arXiv 2004.05675).
    """
    reference = CopyReference(train, held_out, neighbors=neighbors, seed=seed)
    return reference.report(reference.score(samples), level=level, fdr=fdr, draws=draws, seed=seed)


def as_spaces(rows: Rows) -> Mapping[str, Tensor]:
    """Images in one space are a mapping too."""
    return {"": rows} if isinstance(rows, Tensor) else rows


def _excess(low: int, total: int, usual: int, calibrating: int) -> tuple[float, tuple[float, float]]:
    """Share beyond β of fresh images, and its interval, from counts of samples and of calibration images."""
    share, fresh = low / total, usual / (calibrating + 1)
    share_low, share_high = wilson_interval(low, total)
    fresh_low, fresh_high = wilson_interval(usual, calibrating + 1)
    below = ((share - share_low) ** 2 + (fresh_high - fresh) ** 2) ** 0.5
    above = ((share_high - share) ** 2 + (fresh - fresh_low) ** 2) ** 0.5
    difference = share - fresh
    return difference / (1 - fresh), (
        max(-1.0, (difference - below) / (1 - fresh)),
        min(1.0, (difference + above) / (1 - fresh)),
    )


def _one_length(name: str, spaces: Mapping[str, Tensor]) -> int:
    if not spaces:
        raise UserError(f"{name}: no space is given; give at least one.")
    lengths = {key: len(rows) for key, rows in spaces.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{name}: the spaces have different numbers of images, {lengths}; give the same images in all.")
    return next(iter(lengths.values()))
