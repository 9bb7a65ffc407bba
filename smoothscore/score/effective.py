"""The temperature at which a chosen number of neighbors speaks."""

from typing import NamedTuple

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.schedules import EffectiveNeighbors

_TIE = 1e-6  # of the largest gap between log-weights: what is nearer to the top is a tie, told apart by rounding only
_POINTS = 8  # of each search of the bracket, all at once
_SEARCHES = 2  # each narrows the bracket of ln 1/T to a ninth
_STEPS = 2  # of Newton's, from a bracket that is narrow by then
_LEAST = 1e-6  # nats of entropy: a target this near to its end is at its end


class _Entropy(NamedTuple):
    value: Tensor  # H, nats
    variance: Tensor  # of the log-weights over T; dH/d ln(1/T) = −variance


def solve_temperature(log_weight: Tensor, number: Tensor | float, mask: Tensor | None = None) -> Tensor:
    """Find the temperature at which tempered weights amount to a given number of neighbors.

    exp H(T) = n,  H = −Σ_k w_k ln w_k,  w_k = softmax_k(ℓ_k/T)

    H rises with T from ln m, m the number of largest ℓ_k, to ln K. All rows at once: a search of a bracket that is
    known from the gaps, then Newton steps in ln T on the logit of H, held within the bracket; a fixed number of
    operations, and no look at the device. At n ≥ K T is infinite (the plain mean); at n ≤ m, which no T reaches, T is
    so small that the m largest hold all the weight in equal parts, and nothing else any.

    Args:
        log_weight: ℓ [B, K], finite; at T = 1 the weights are softmax(ℓ).
        number: n ≥ 1, a float or [B].
        mask: bool [B, K], True where a neighbor takes part, at least one in each row; K is then their number.

    Returns:
        T [B, 1] > 0, of log_weight's type; exp H is within 1e-3 of n, relative, and mostly within 1e-5.
    """
    taken = torch.ones_like(log_weight[:1], dtype=torch.bool) if mask is None else mask
    top = log_weight.where(taken, -torch.inf).amax(1, keepdim=True)
    gap = (top - log_weight).where(taken, 0.0)
    scale = gap.amax(1, keepdim=True)
    scale = scale.where(scale > 0, 1.0)
    gap = (gap / scale).float()
    gap = gap.where(gap > _TIE, 0.0)
    taken = taken.expand_as(gap)

    count, ties = taken.sum(1).float(), (taken & (gap == 0)).sum(1).float()
    low, high = ties.log(), count.log()
    number = torch.as_tensor(number, dtype=torch.float32, device=gap.device).expand_as(count)
    target = torch.maximum(torch.minimum(number.log(), high - _LEAST), low + _LEAST)
    least_gap = gap.where(gap > 0, 1.0).amin(1)

    # With β = 1/T: H ≥ ln K − β max gap; and H − ln m ≤ (K − m)/m (1 + y) e^−y ≤ 1.22 K/m e^(−y/2), y = β min gap ≥ 1.
    start = (high - target).clamp_min(_LEAST).log()
    room = (1.22 * count / (ties * (target - low).clamp_min(_LEAST))).log().clamp_min(0.5)
    stop = torch.maximum((2 * room / least_gap).log(), start)
    fraction = torch.arange(1, _POINTS + 1, device=gap.device) / (_POINTS + 1)
    part = taken.to(gap.dtype)
    for _ in range(_SEARCHES):
        width = stop - start
        entropy = _entropy(gap, part, start[:, None] + width[:, None] * fraction).value
        passed = (entropy > target[:, None]).sum(1)
        start, stop = start + width * passed / (_POINTS + 1), start + width * (passed + 1) / (_POINTS + 1)
    at = (start + stop) / 2
    for _ in range(_STEPS):
        entropy, variance = (found.squeeze(1) for found in _entropy(gap, part, at[:, None]))
        above = entropy > target
        start, stop = torch.where(above, at, start), torch.where(above, stop, at)
        tiny = torch.finfo(gap.dtype).tiny
        below_end, above_end = (high - entropy).clamp_min(tiny), (entropy - low).clamp_min(tiny)
        miss = (above_end / below_end).log() - ((target - low) / (high - target)).log()
        slope = (variance * (1 / below_end + 1 / above_end)).clamp_min(tiny)
        at = torch.minimum(torch.maximum(at + (miss / slope).clamp(-0.5, 1.0).log1p(), start), stop)
    # e^−100 is nothing in float32
    inverse = torch.where(number.log() <= low + _LEAST, (100 + 2 * high) / least_gap, at.exp())
    temperature = torch.where(number >= count, torch.inf, 1 / inverse)
    return scale * temperature[:, None].to(scale.dtype)


def _entropy(gap: Tensor, part: Tensor, log_inverse: Tensor) -> _Entropy:
    """H and the variance at ln(1/T) [B, G] for gaps [B, K] and part [B, K], 1 where a neighbor takes part."""
    energy = log_inverse.exp().unsqueeze(2) * gap.unsqueeze(1)
    weight = energy.neg().exp_().mul_(part.unsqueeze(1))
    total = weight.sum(2)
    weight *= energy
    mean = weight.sum(2) / total
    square = weight.mul_(energy).sum(2) / total
    return _Entropy(total.log() + mean, (square - mean * mean).clamp_min_(0))


def effective_temperature(
    rule: EffectiveNeighbors, log_weight: Tensor, sigma: Tensor, mask: Tensor | None = None
) -> Tensor:
    """T [B, 1] of every sample by a rule, from log-weights [B, K] and noise levels [B]; see `solve_temperature`.

    Raises:
        UserError: n below 1 or above the number of neighbors. It is looked at where that costs nothing: numbers, and
            tensors on the CPU. On another device n is held within 1 and K.
    """
    number = rule.number(sigma)
    if number.device.type == "cpu":
        count = torch.full_like(number, log_weight.shape[1]) if mask is None else mask.sum(1).to(number)
        check_number(number, count)
    elif isinstance(rule.n, int | float):
        check_number(torch.tensor([rule.n]), torch.tensor([log_weight.shape[1]]))
    return solve_temperature(log_weight, number, mask)


def check_number(number: Tensor, count: Tensor) -> None:
    """Raise `UserError` for the first n [B] that is below 1 or above the number of neighbors [B]."""
    bad = ~((number >= 1) & (number <= count))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        n, k = float(number[row]), int(count[row])
        raise UserError(
            f"n is {n:g} for sample {row}, which has {k} neighbors: give from 1 (denoising) to {k} (the plain mean), "
            "or more neighbors."
        )
