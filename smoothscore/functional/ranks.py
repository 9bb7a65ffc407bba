"""Rank tests: are samples too often among the lowest, and which of them can be named?"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

DRAWS = 9999  # of a null, so that the smallest p-value is 1e-4


def hypergeometric_tail(count: int, drawn: int, marked: int, total: int) -> float:
    """P(X ≥ count), where X of ``drawn`` things, taken without replacement out of ``total``, are ``marked``.

    P(X = x) = C(marked, x) C(total − marked, drawn − x)/C(total, drawn); with it Fisher's exact test compares two
    shares: of n and m things, count and other have a property, drawn = n, marked = count + other, total = n + m.

    Args:
        count: smallest X that is counted.
        drawn: things taken.
        marked: things that are marked.
        total: all things.

    Returns:
        A probability.

    Source: R. A. Fisher, The Logic of Inductive Inference, JRSS 98 (1935).
    """
    low, high = max(count, 0, drawn + marked - total), min(drawn, marked)
    if low > high:
        return 0.0
    x = torch.arange(low, high + 1, dtype=torch.float64)
    log = _log_choose(marked, x) + _log_choose(total - marked, drawn - x)
    whole = _log_choose(total, torch.tensor(float(drawn), dtype=torch.float64))
    return min(1.0, float((log.logsumexp(0) - whole).exp()))


def conformal_p_values(scores: Tensor, calibration: Tensor) -> Tensor:
    """Conformal p-values: p = (1 + #{c : score_c ≤ score_x})/(m + 1), small where few others score as low.

    Where a sample and the m calibration images are exchangeable, P(p ≤ α) ≤ α at every α and m.

    Args:
        scores: [n].
        calibration: [m].

    Returns:
        [n], float64, in [1/(m + 1), 1].

    Source: Vovk et al. 2005, Algorithmic Learning in a Random World; Bates et al. 2023 (arXiv 2104.08279), Eq. (4).
    """
    as_low = torch.searchsorted(calibration.sort().values, scores.contiguous(), right=True)
    return (as_low.double() + 1) / (len(calibration) + 1)


def false_discovery(p: Tensor, rate: float) -> Tensor:
    """Benjamini and Hochberg: name the largest set of samples of which at most ``rate`` are expected to be false.

    With p_(1) ≤ … ≤ p_(n), all up to the last i with p_(i) ≤ rate · i/n. It holds for conformal p-values, which share
    their calibration images, too.

    Args:
        p: p-values [n].
        rate: bound on the expected share of false ones among those that are named, in (0, 1).

    Returns:
        bool [n].

    Source: Benjamini & Hochberg 1995; Bates et al. 2023 (arXiv 2104.08279), Theorem 2.
    """
    ordered = p.double().sort().values
    below = (ordered <= rate * torch.arange(1, len(p) + 1, device=p.device) / len(p)).nonzero()
    return p <= ordered[below[-1, 0]] if len(below) else torch.zeros_like(p, dtype=torch.bool)


def lowest_ranks_test(scores: Tensor, calibration: Tensor, *, draws: int = DRAWS, seed: int = 0) -> float:
    """One p-value: do more samples lie below the lowest calibration scores than would if both came from one source?

    With B_k the samples below the k-th lowest calibration score, k = 1, 2, 4, …, t_k = P(B_k ≥ the number found) if all
    n + m scores are exchangeable: among the lowest B_k + k − 1 scores fewer than k are of the calibration, a
    hypergeometric tail. p is the probability that the smallest t_k is as small, by random draws of the null; it depends
    on n and m alone. A few samples far below everything count (k = 1), and so do many slightly low ones.

    Args:
        scores: [n].
        calibration: [m].
        draws: of the null.
        seed: of the draws.

    Returns:
        A p-value in [1/(draws + 1), 1]; ties are taken against the finding.
    """
    n, m = len(scores), len(calibration)
    places = [2**power for power in range(max(1, m // 2).bit_length())]
    limits = calibration.sort().values[torch.tensor(places, device=calibration.device) - 1]
    found = torch.searchsorted(scores.sort().values, limits).cpu()  # strictly below
    tails = torch.stack([_below_tails(n, m, place) for place in places])
    smallest = tails.gather(1, found[:, None]).min()
    # The lowest of m uniform scores, as sums of exponentials; samples fall between them independently.
    random, steps = np.random.default_rng(seed), np.diff([0, *places, m + 1])
    sums = torch.from_numpy(np.stack([random.gamma(step, size=draws) for step in steps])).cumsum(0)
    levels = sums[:-1] / sums[-1]
    generator = torch.Generator().manual_seed(seed)
    below = torch.zeros(draws, dtype=torch.float64)
    lowest, before = torch.ones(draws, dtype=torch.float64), torch.zeros(draws, dtype=torch.float64)
    for tail, now in zip(tails, levels, strict=True):
        chance = ((now - before) / (1 - before)).clamp(0, 1)
        below = below + torch.binomial(n - below, chance, generator=generator)
        lowest = torch.minimum(lowest, tail[below.long()])
        before = now
    return (1 + int((lowest <= smallest * (1 + 1e-9)).sum())) / (draws + 1)


def marked_sum_test(
    amount: Tensor, marked: Tensor, num_marked: int, total: int, *, draws: int = DRAWS, seed: int = 0
) -> float:
    """Permutation p-value: is Σ amount over the marked larger than if the marks had been dealt at random?

    Args:
        amount: [J], at least 0, of the things that have any.
        marked: bool [J].
        num_marked: how many of all things are marked.
        total: all things, J or more.
        draws: permutations.
        seed: of the permutations.

    Returns:
        A p-value in [1/(draws + 1), 1].

    Source: E. J. G. Pitman, Significance Tests Which May Be Applied to Samples from Any Populations (1937).
    """
    count = len(amount)
    if count == 0:
        return 1.0
    amount, sum_found = amount.double().cpu(), float(amount.double().cpu()[marked.cpu()].sum())
    dealt = np.random.default_rng(seed).hypergeometric(num_marked, total - num_marked, count, size=draws)
    generator = torch.Generator().manual_seed(seed)
    as_large = 0
    for part in torch.split(torch.from_numpy(dealt), max(1, 2**22 // count)):
        order = torch.rand(len(part), count, generator=generator).argsort(1)
        sums = amount[order].cumsum(1).gather(1, (part - 1).clamp_min(0)[:, None])[:, 0] * (part > 0)
        as_large += int((sums >= sum_found * (1 - 1e-12)).sum())
    return (1 + as_large) / (draws + 1)


def _below_tails(n: int, m: int, place: int) -> Tensor:
    """P(B ≥ b) for b = 0 … n, B of n scores below the ``place``-th lowest of m others: float64 [n + 1]."""
    b = torch.arange(n + 1, dtype=torch.float64)
    # B = b: the (b + place)-th lowest of all is the place-th other one.
    log = _log_choose(b + place - 1, torch.full_like(b, place - 1)) + _log_choose(n - b + m - place, n - b)
    log = log - _log_choose(n + m, torch.tensor(float(n), dtype=torch.float64))
    return log.flip(0).logcumsumexp(0).flip(0).exp().clamp(max=1)


def _log_choose(total: Tensor | int, chosen: Tensor) -> Tensor:
    of = torch.as_tensor(total, dtype=torch.float64)
    return torch.lgamma(of + 1) - torch.lgamma(chosen + 1) - torch.lgamma(of - chosen + 1)
