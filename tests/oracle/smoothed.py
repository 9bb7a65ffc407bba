"""The smoothed target, straight from the formula, in float64 and with Python loops over centers."""

import math

import torch
from torch import Tensor


def smoothed_target_oracle(
    x: Tensor, centers: Tensor, sigma: Tensor, temperature: object, scale: str, mask: Tensor | None = None
) -> Tensor:
    """One sample at a time: log-weights by logarithms, softmax by logsumexp, terms at distance 0 are 0."""
    targets = []
    for b in range(len(x)):
        point, mus = x[b].double().flatten(), centers[b].double().flatten(1)
        dim = point.numel()
        keep = [k for k in range(len(mus)) if mask is None or mask[b, k]]
        distance = {k: float((point - mus[k]).norm()) for k in keep}
        f = {}
        for k in keep:
            star = distance[k] / math.sqrt(dim)
            t = temperature(star) if callable(temperature) else float(torch.as_tensor(temperature).expand(len(x))[b])
            f[k] = (-(dim - 2) * math.log(max(star, 1e-150)) - dim / 2) / t
        log_sum = torch.logsumexp(torch.tensor(list(f.values()), dtype=torch.float64), 0)
        total = torch.zeros_like(point)
        for k in keep:
            weight = math.exp(f[k] - float(log_sum))
            variance = distance[k] ** 2 / dim if scale == "optimal" else float(sigma[b]) ** 2
            if distance[k] > 0:
                total += weight * (mus[k] - point) / variance
        targets.append(total.view(x.shape[1:]))
    return torch.stack(targets)
