"""What a sampler costs beyond its score, and what a search costs that follows the points.

1. Overhead per call of the score as a share of a small network's call. Bound: 2 % at a batch of 64.
2. σ* by `NearestSearch` against brute force along whole walks at M = 50,000, d = 3072, B = 64: equal at every step.
   Bound: 5 times faster over a walk, its first full look included.

Run `OMP_NUM_THREADS=1 python tests/benchmarks/bench_samplers.py overhead` and
`OMP_NUM_THREADS=2 python tests/benchmarks/bench_samplers.py search`.
"""

import argparse
import math
import os
import platform
import time
from importlib.resources import files

import numpy as np
import torch

from smoothscore.distances import Centers
from smoothscore.networks import UNet
from smoothscore.samplers import (
    ActualNoise,
    DPMSolver,
    GradientAscent,
    Heun,
    NearestSearch,
    PredictorCorrector,
    ProbabilityFlow,
)
from smoothscore.samplers.rows import per_image
from smoothscore.schedules import log_uniform
from smoothscore.score import Conditioned

DIM = 3072


def seconds(run, repeat):
    best = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def every_sampler(steps):
    levels = log_uniform(0.01, 20, steps)
    yield "PC", PredictorCorrector(levels)
    yield "PC, annealed Langevin", PredictorCorrector(levels, predictor="none", corrector="annealed_langevin")
    yield "ancestral", PredictorCorrector(levels, predictor="ancestral", corrector_steps=0)
    yield "flow, Euler", ProbabilityFlow(levels)
    yield "flow, rk45", ProbabilityFlow(levels, method="rk45")
    yield "Heun", Heun(levels)
    yield "DPM-Solver", DPMSolver(levels)
    yield "actual noise, score", ActualNoise(steps=steps, sigma_max=20.0, noise="score")
    yield "actual noise, churn 1", ActualNoise(steps=steps, sigma_max=20.0, noise="score", churn=1.0)
    for step in ("fixed", "barzilai_borwein", "backtracking"):
        yield f"ascent, {step}", GradientAscent(eta=1e-5, max_steps=steps, sigma_max=20.0, step=step, sigma_stop=1e-6)


def overhead(options):
    for size in (16, 32):
        net = UNet(image_size=size, conditioned=False).eval()
        x = torch.randn(options.batch, 3, size, size)
        with torch.no_grad():
            network = seconds(lambda net=net, x=x: net(x, 1.0), options.repeat)
        print(f"{size} x {size}: network {1e3 * network:.2f} ms per call")
        worst = 0.0
        for name, sampler in every_sampler(options.steps):
            # A score that costs nothing leaves the sampler's own work: F = a fixed tensor.
            free = seconds(
                lambda s=sampler, x=x: s.sample(lambda _, __: x, tuple(x.shape), seeds=range(len(x))), options.repeat
            )
            share = free / sampler.nfe / network
            worst = max(worst, share)
            print(f"  {name:24s} nfe {sampler.nfe:4d}: {1e3 * free / sampler.nfe:6.3f} ms, {100 * share:5.2f} %")
        print(f"  worst {100 * worst:.2f} %, bound 2 %")


def clustered(count):
    """Clusters of smooth images with the spectrum of photographs: uint8 [M, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.fft.fftfreq(32)
    radius = (frequency[:, None] ** 2 + frequency[None] ** 2).sqrt().clamp_min(1 / 32)

    def smooth(number, power):
        noise = torch.randn(number, 3, 32, 32, generator=generator)
        image = torch.fft.ifft2(torch.fft.fft2(noise) * radius**-power).real
        return image / image.std()

    middles, parts = smooth(64, 1.2), []
    for part in torch.arange(count).split(5000):
        cluster = middles[torch.randint(64, (len(part),), generator=generator)]
        image = 0.5 + 0.18 * cluster + 0.14 * smooth(len(part), 1.0)
        parts.append((image.clamp(0, 1) * 255).round().to(torch.uint8))
    return torch.cat(parts)


def augmented_emoji(count):
    """Emoji, mirrored, shifted and dimmed at random: uint8 [M, 3, 32, 32], with many near duplicates."""
    with np.load(str(files("smoothscore") / "data" / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        emoji = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(0)
    out = torch.empty(count, 3, 32, 32, dtype=torch.uint8)
    for row in range(count):
        image = emoji[int(torch.randint(len(emoji), (), generator=generator))]
        mirrored, down, right = (int(torch.randint(n, (), generator=generator)) for n in (2, 5, 5))
        image = (image.flip(-1) if mirrored else image).roll((down - 2, right - 2), (-2, -1))
        out[row] = (image * (0.7 + 0.3 * torch.rand((), generator=generator))).to(torch.uint8)
    return out


def walk(data, batch, *, steps, alpha, sigma_max, churn):
    """States of `ActualNoise` with the exact score of 2,000 of the images, which stands for a network."""
    score = Conditioned(data[:: max(1, len(data) // 2000)])
    states = []
    sampler = ActualNoise(steps=steps, alpha=alpha, sigma_max=sigma_max, noise="score", churn=churn, trust=1e-9)

    def network(x, sigma):
        found = score.centers.nearest(x, 1).distance[:, 0] / math.sqrt(DIM)
        states.append(x)
        return (score.denoised(x, found) - x) / per_image(found * sigma, x)  # −F/σ, F blind

    sampler.sample(network, (batch, 3, 32, 32), seeds=range(batch))
    return states


def search(options):
    for name, make in (("clustered", clustered), ("augmented emoji", augmented_emoji)):
        data = make(options.count)
        begin = time.perf_counter()
        finder = NearestSearch(data)
        finder.track()
        _ = finder.basis
        print(f"{name}: made ready in {time.perf_counter() - begin:.2f} s, once per data set")
        centers = Centers(data)
        for steps, alpha, churn in ((50, 0.16, 0.0), (10, 0.6, 0.0), (50, 0.16, 1.0)):
            states = walk(data, options.batch, steps=steps, alpha=alpha, sigma_max=20.0, churn=churn)
            tracker, followed, brute, slower = finder.track(), [], [], []
            for x in states:
                begin = time.perf_counter()
                found = tracker(x)
                followed.append(time.perf_counter() - begin)
                begin = time.perf_counter()
                exact = centers.nearest(x, 1)
                brute.append(time.perf_counter() - begin)
                if not (torch.equal(found.distance, exact.distance) and torch.equal(found.index, exact.index)):
                    raise SystemExit(f"{name}: the two searches differ at step {len(followed)}")
                if followed[-1] > brute[-1]:
                    slower.append(float(found.distance.mean()) / math.sqrt(DIM))
            levels = ", ".join(f"{level:.3g}" for level in slower) or "none"
            print(
                f"  {steps} steps, churn {churn:g}: followed {sum(followed):6.2f} s (median step "
                f"{1e3 * sorted(followed)[steps // 2]:5.1f} ms), brute {sum(brute):6.2f} s "
                f"({1e3 * sorted(brute)[steps // 2]:5.1f} ms): {sum(brute) / sum(followed):5.1f} x; "
                f"full looks {tracker.looks}, measured {tracker.measured}; slower at σ* = {levels}",
                flush=True,
            )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("overhead", "search"))
    parser.add_argument("--steps", type=int, default=40, help="of the samplers, for overhead")
    parser.add_argument("--repeat", type=int, default=5, help="the best of so many, for overhead")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--count", type=int, default=50_000, help="training images, for search")
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; batch {options.batch}"
    )
    (overhead if options.what == "overhead" else search)(options)


if __name__ == "__main__":
    main()
