"""What a sampler costs beyond its score: overhead per step as a share of a small network's step.

Bound: 2 % at a batch of 64.
Run `OMP_NUM_THREADS=1 python tests/benchmarks/bench_samplers.py [--steps 40] [--repeat 5]`.
"""

import argparse
import os
import platform
import time

import torch

from smoothscore.networks import UNet
from smoothscore.samplers import Heun, PredictorCorrector, ProbabilityFlow
from smoothscore.schedules import log_uniform


def seconds(run, repeat):
    best = float("inf")
    for _ in range(repeat):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    print(
        f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; batch {options.batch}, {options.steps} levels"
    )
    levels = log_uniform(0.01, 20, options.steps)
    for size in (16, 32):
        net = UNet(image_size=size, conditioned=False).eval()
        shape = (options.batch, 3, size, size)
        x = torch.randn(shape)
        with torch.no_grad():
            network = seconds(lambda net=net, x=x: net(x), options.repeat)
        for sampler in (
            PredictorCorrector(levels),
            PredictorCorrector(levels, predictor="ancestral", corrector_steps=0),
            ProbabilityFlow(levels),
            Heun(levels),
        ):
            # A score that costs nothing leaves the sampler's own work: x itself, scaled nowhere.
            free = seconds(
                lambda s=sampler, x=x: s.sample(lambda _, __: x, tuple(x.shape), seeds=range(len(x))), options.repeat
            )
            per_call = free / sampler.nfe
            print(
                f"{size}x{size} {type(sampler).__name__:18s} nfe {sampler.nfe:3d}: overhead {1e3 * per_call:6.3f} ms "
                f"per call of the score, network {1e3 * network:7.2f} ms, {100 * per_call / network:5.2f} %"
            )


if __name__ == "__main__":
    main()
