"""The temperature at which a chosen number of neighbors speaks."""

import torch
from torch import Tensor

from smoothscore.distances import Centers, Query
from smoothscore.errors import UserError
from smoothscore.schedules import EffectiveNeighbors
from smoothscore.score.weights import optimal_log_weight

_TIE = 8  # roundings of a log-weight: what is nearer to the top is a tie
_POINTS = 8  # of a search, all at once
_SEARCHES = 2  # each narrows the bracket to a ninth
_STEPS = 3  # of Newton's
_SETTLED = 32  # nearest centers whose distances are taken directly
_LEAST = 1e-6  # nats of entropy: a target this near to its end is at its end
_FAR = 1e10  # a gap, in units of the largest, at which nothing is left of a weight at any T that is looked at


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
    top = (log_weight if mask is None else log_weight.where(mask, -torch.inf)).amax(1, keepdim=True)
    gap = top - log_weight
    counts = gap > _TIE * torch.finfo(gap.dtype).eps * top.abs()
    gap = gap * (counts if mask is None else counts & mask)
    scale = gap.amax(1, keepdim=True)
    scale = torch.where(scale > 0, scale, 1.0)
    gap = (gap / scale).float()
    least_gap = gap.where(gap > 0, 1.0).amin(1)
    size = torch.full_like(least_gap, gap.shape[1]) if mask is None else mask.sum(1).to(gap.dtype)
    if mask is not None:
        gap = gap.where(mask, _FAR)
    low, high = (gap == 0).sum(1).to(gap.dtype).log_(), size.log()
    number = torch.as_tensor(number, dtype=gap.dtype, device=gap.device)
    target = number.log()
    reached = torch.maximum(torch.minimum(target, high - _LEAST), low + _LEAST)

    # With β = 1/T: H ≥ ln K − β max gap; and H − ln m ≤ (K − m)/m (1 + y) e^−y ≤ 1.22 K/m e^(−y/2), y = β min gap ≥ 1.
    logit, span = _logit(reached, low, high), high - low
    stop = ((1.65 + span - (reached - low).log()) * 2 / least_gap).log_()
    start = torch.minimum((high - reached).log_(), stop)
    points = torch.arange(1, _POINTS + 1, dtype=gap.dtype, device=gap.device)
    for _ in range(_SEARCHES):
        width = (stop - start) / (_POINTS + 1)
        entropy, _ = _entropy(gap, torch.addcmul(start[:, None], width[:, None], points))
        start = torch.addcmul(start, width, (entropy > reached[:, None]).sum(1))
        stop = start + width
    at = start + width / 2
    for _ in range(_STEPS):
        entropy, variance = (found.squeeze(1) for found in _entropy(gap, at[:, None]))
        odds = _logit(entropy, low, high)
        slope = variance * span / ((entropy - low) * (high - entropy))
        step = ((odds - logit) / slope).nan_to_num_(0.0).clamp_(-0.5, 1.0)
        at = torch.minimum(torch.maximum(at + step.log1p_(), start), stop)
    temperature = (-at).exp()
    # with e^−100 there is nothing left of a weight in float32
    temperature = torch.where(target <= low, least_gap / (100 + 2 * high), temperature)
    temperature = torch.where(number >= size, torch.inf, temperature)
    return scale * temperature[:, None].to(scale.dtype)


def _logit(entropy: Tensor, low: Tensor, high: Tensor) -> Tensor:
    tiny = torch.finfo(entropy.dtype).tiny
    return ((entropy - low).clamp_min_(tiny) / (high - entropy).clamp_min_(tiny)).log_()


def _entropy(gap: Tensor, log_inverse: Tensor) -> tuple[Tensor, Tensor]:
    """H in nats and its slope −dH/d ln(1/T), the variance of ℓ/T, at ln(1/T) [B, G] for gaps [B, K]; each [B, G]."""
    energy = log_inverse.exp().neg_().unsqueeze(2) * gap.unsqueeze(1)
    weight = energy.exp()
    total = weight.sum(2)
    weight *= energy
    mean = weight.sum(2) / total
    square = weight.mul_(energy).sum(2) / total
    return total.log() - mean, square - mean * mean


def effective_temperature(
    rule: EffectiveNeighbors, log_weight: Tensor, sigma: Tensor, mask: Tensor | None = None
) -> Tensor:
    """T [B, 1] of every sample by a rule, from log-weights [B, K] and noise levels [B]; see `solve_temperature`.

    Raises:
        UserError: n below 1 or above the number of neighbors. It is looked at where that costs nothing: numbers, and
            tensors on the CPU. On another device n is held within 1 and K.
    """
    number, width = rule.number(sigma), log_weight.shape[1]
    if number.device.type == "cpu":
        check_numbers(number, torch.full_like(number, width) if mask is None else mask.sum(1), of="sample")
    elif isinstance(rule.n, int | float):
        check_numbers(torch.tensor([rule.n]), torch.tensor([width]), of="sample")
    return solve_temperature(log_weight, number, mask)


def effective_temperature_among(rule: EffectiveNeighbors, centers: Centers, query: Query, value: Tensor) -> Tensor:
    """T [B, 1] at which n of all centers speak to every point, from screened squared distances less the offset [B, M].

    The nearest are settled, since their weights matter most and rounding shows most at them; the others' screened
    distances tell the entropy well enough. n changes with σ* of the nearest center. A block of points at a time.

    Raises:
        UserError: n below 1 or above M, with the limits of `effective_temperature`.
    """
    nearest_sq, nearest = centers.nearest_among(query, value, min(_SETTLED, centers.count))
    step = max(1, centers.memory_budget // (8 * (2 * _POINTS + 8) * centers.count))
    found = []
    for rows in torch.split(torch.arange(len(value), device=value.device), step):
        distance_sq = (value[rows].double() + query.offset[rows, None]).maximum(nearest_sq[rows, :1])
        distance_sq.scatter_(1, nearest[rows], nearest_sq[rows])
        sigma = (nearest_sq[rows, 0] / centers.dim).sqrt()
        log_weight = optimal_log_weight(distance_sq.clamp_min_(torch.finfo(torch.float64).tiny), centers.dim)
        found.append(effective_temperature(rule, log_weight, sigma))
    return torch.cat(found)


def check_numbers(number: Tensor, count: Tensor, *, of: str) -> None:
    """Raise `UserError` for the first n [P] that is below 1 or above the number of neighbors [P]."""
    bad = ~((number >= 1) & (number <= count))
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        n, k = float(number[row]), int(count[row])
        raise UserError(
            f"EffectiveNeighbors: n is {n:g} for {of} {row}, where there are {k} neighbors, itself included: give n "
            f"from 1 (denoising) to {k} (the plain mean), or more neighbors (data.init_args.k, or a wider radius)."
        )
