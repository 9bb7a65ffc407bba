"""Fréchet distance: ours against torchmetrics and scipy on the same statistics, interleaved in one process.

Run: python tests/benchmarks/bench_frechet.py [--dim 2048] [--rows 4000] [--repeats 3] [--no-scipy]
"""

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import scipy.linalg
import torch
import torchmetrics
from torch import Tensor
from torchmetrics.image.fid import _compute_fid

from smoothscore.functional import (
    FrechetReference,
    feature_statistics,
    frechet_distance,
    frechet_from_features,
)


def features_like(rows: int, dim: int, seed: int) -> Tensor:
    """Correlated features with a decaying spectrum, as those of a classifier."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)) / dim**0.5
    scale = torch.arange(1, dim + 1) ** -0.5
    return (torch.randn(rows, dim, generator=generator) * scale) @ mixing + 0.01 * seed


def scipy_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    root = scipy.linalg.sqrtm((cov1 @ cov2).numpy())
    return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root.real.trace())


def interleave(calls: dict[str, Callable[[], Tensor | float]], repeats: int) -> None:
    """Time every call once a round, and print medians beside the first call's."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    values: dict[str, float] = {}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            values[name] = float(call())
            seconds[name].append(time.perf_counter() - start)
    first = next(iter(calls))
    for name in calls:
        middle = median(seconds[name])
        print(
            f"  {name:<34} {middle:9.4f} s   {middle / median(seconds[first]):7.2f} × {first}   "
            f"relative difference {abs(values[name] / values[first] - 1):.1e}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-scipy", action="store_true")
    args = parser.parse_args()
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} torch threads, torchmetrics {torchmetrics.__version__}")

    one, two = features_like(args.rows, args.dim, 1), features_like(args.rows, args.dim, 2)
    statistics = *feature_statistics(one), *feature_statistics(two)
    reference = FrechetReference.from_statistics(*statistics[:2])
    calls: dict[str, Callable[[], Tensor | float]] = {
        "ours": lambda: frechet_distance(*statistics),
        "ours, reference factored before": lambda: reference.distance_from_statistics(*statistics[2:]),
        "torchmetrics": lambda: _compute_fid(*statistics),
    }
    if not args.no_scipy:
        calls["scipy sqrtm"] = lambda: scipy_distance(*statistics)
    print(f"from statistics, {args.dim} features:")
    interleave(calls, args.repeats)

    for rows, references, dim in ((256, 60, 1280), (1000, 1000, args.dim)):
        few, some = features_like(rows, dim, 1), features_like(references, dim, 2)
        cached = FrechetReference.from_features(some)
        print(f"from {rows} features against {references}, {dim} each:")
        interleave(
            {
                "ours": lambda few=few, some=some: frechet_from_features(some, few),
                "ours, reference factored before": lambda few=few, cached=cached: cached.distance(few),
                "ours, by covariances": lambda few=few, some=some: frechet_distance(
                    *feature_statistics(some), *feature_statistics(few)
                ),
                "torchmetrics": lambda few=few, some=some: _compute_fid(
                    *feature_statistics(some), *feature_statistics(few)
                ),
            },
            args.repeats,
        )


if __name__ == "__main__":
    main()
