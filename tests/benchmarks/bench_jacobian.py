"""The spectral radius in closed form against power iteration by autograd, interleaved in one process.

    python tests/benchmarks/bench_jacobian.py [--count 1000] [--batch 8] [--iterations 100] [--repeat 3] [--threads N]

Both take float32 points. The peer multiplies by J through forward-mode autograd of the score with σ* held fixed,
all points at once, for a given number of iterations; the last columns say how far the two values are apart and how
much the peer's still moved in its last tenth.
"""

import argparse
import math
import os
import time

import torch
from torch import Tensor

from smoothscore.score.jacobian import spectral_radius


def power_iteration(x: Tensor, data: Tensor, temperature: float, iterations: int) -> tuple[Tensor, Tensor]:
    """max |λ| of the frozen-σ* score's Jacobian at x [B, d], and the value nine tenths of the way."""
    dim = x.shape[1]
    level_sq = torch.cdist(x, data).square() / dim

    def score(point: Tensor) -> Tensor:
        distance_sq = point.square().sum(1, keepdim=True) - 2 * point @ data.T + data.square().sum(1)
        f = -(dim - 2) / 2 * level_sq.log() - distance_sq / (2 * level_sq)
        scale = torch.softmax(f / temperature, 1) / level_sq
        return scale @ data - scale.sum(1, keepdim=True) * point

    v = torch.nn.functional.normalize(torch.randn(x.shape, generator=torch.manual_seed(1)), dim=1)
    before = radius = torch.zeros(len(x))
    for iteration in range(iterations):
        _, image = torch.func.jvp(score, (x,), (v,))
        radius = image.norm(dim=1)
        v = image / radius[:, None]
        if iteration == iterations - max(1, iterations // 10):
            before = radius
    return radius, before


def bisector_points(data: Tensor, batch: int) -> Tensor:
    """Midpoints of pairs, a little off."""
    first, second = torch.randperm(len(data), generator=torch.manual_seed(2))[: 2 * batch].view(2, batch)
    middle = (data[first] + data[second]) / 2
    return middle + 0.01 * torch.randn(middle.shape, generator=torch.manual_seed(3))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--dim", type=int, default=3072)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    data = torch.rand(options.count, options.dim, generator=torch.manual_seed(0))
    for batch in options.batch:
        x = bisector_points(data, batch)
        print(f"M = {options.count}, d = {options.dim}, B = {batch}, {options.iterations} power iterations")
        for temperature in (1.0, 10.0, 100.0, 1000.0):
            best, values = {"ours": math.inf, "autograd": math.inf}, {}
            for turn in range(options.repeat + 1):
                start = time.perf_counter()
                values["ours"] = spectral_radius(x, data, temperature)
                middle = time.perf_counter()
                values["autograd"], before = power_iteration(x, data, temperature, options.iterations)
                end = time.perf_counter()
                if turn:
                    best["ours"] = min(best["ours"], middle - start)
                    best["autograd"] = min(best["autograd"], end - middle)
            apart = float((values["ours"] / values["autograd"] - 1).abs().max())
            moved = float((values["autograd"] / before - 1).abs().max())
            ours, autograd = best["ours"] * 1e3, best["autograd"] * 1e3
            print(
                f"  T = {temperature:6g}  ours {ours:7.1f} ms autograd {autograd:7.1f} ms  ratio {autograd / ours:5.1f}"
                f"  apart {apart:.1e}  moved {moved:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
