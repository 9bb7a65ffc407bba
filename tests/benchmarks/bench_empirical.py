"""The exact score against the plain forms, interleaved in one process.

    python tests/benchmarks/bench_empirical.py [--count 20000 50000] [--batch 64] [--repeat 5] [--threads N]

Peers: the plain product form with cached norms, the cdist form, and the form of smalldiffusion's IdealDenoiser
(written anew, norms and doubled data computed at every call as there). All compute the conditioned score in
float32, which is wrong by whole nats at small σ; the plain product form is also run with power-law weights. The
bound is one float32 product of all points with all centers, 2·B·M·d operations, timed beside.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from smoothscore.schedules import shell_touch
from smoothscore.score.empirical import Conditioned, Tempered, Unconditioned


def blended_emoji(count: int, generator: torch.Generator) -> Tensor:
    """Distinct images from pairs of the embedded ones, mixed and shifted: uint8 [count, 3, 32, 32]."""
    with np.load(str(files("smoothscore") / "data" / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        images = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2)
    pair = torch.randint(len(images), (2, count), generator=generator)
    share = torch.rand(count, 1, 1, 1, generator=generator).mul_(0.5)
    result = torch.empty(count, *images.shape[1:], dtype=torch.uint8)
    for part in torch.arange(count).split(2000):
        first, second = images[pair[0, part]], images[pair[1, part]].roll(int(part[0]) // 2000 + 1, dims=3)
        result[part] = torch.lerp(first.float(), second.float(), share[part]).round().to(torch.uint8)
    return result


class Peers:
    """Plain float32 forms of the conditioned score over centers [M, d]."""

    def __init__(self, data: Tensor) -> None:
        self.data, self.norm_sq = data, data.square().sum(1)

    def product(self, x: Tensor, sigma: float) -> Tensor:
        distance_sq = torch.addmm(self.norm_sq, x, self.data.T, alpha=-2)
        weights = distance_sq.mul_(-1 / (2 * sigma**2)).softmax(1)
        return torch.mm(weights, self.data).sub_(x).div_(sigma**2)

    def cdist(self, x: Tensor, sigma: float) -> Tensor:
        weights = torch.cdist(x, self.data).square_().mul_(-1 / (2 * sigma**2)).softmax(1)
        return torch.mm(weights, self.data).sub_(x).div_(sigma**2)

    def ideal_denoiser(self, x: Tensor, sigma: float) -> Tensor:
        x_norm = (torch.norm(x, dim=1) ** 2).unsqueeze(1).repeat(1, len(self.data)).T
        norm = (torch.norm(self.data, dim=1) ** 2).unsqueeze(1).repeat(1, len(x))
        distance_sq = x_norm + norm - 2 * self.data @ x.T
        weights = (-distance_sq / 2 / sigma**2).softmax(0)
        return (torch.einsum("ij,id->jd", weights, self.data) - x) / sigma**2

    def power_law(self, x: Tensor, temperature: float) -> Tensor:
        dim = x.shape[1]
        distance_sq = torch.addmm(self.norm_sq, x, self.data.T, alpha=-2).add_(x.square().sum(1, keepdim=True))
        scale = distance_sq.log().mul_(-(dim - 2) / (2 * temperature)).softmax(1).mul_(dim).div_(distance_sq)
        return torch.mm(scale, self.data).sub_(x * scale.sum(1, keepdim=True))


def interleaved(forms: dict[str, Callable[[], Tensor]], repeat: int) -> dict[str, float]:
    """Best seconds of each form, all run in turn `repeat` times after one warm-up."""
    best = dict.fromkeys(forms, float("inf"))
    for turn in range(repeat + 1):
        for name, form in forms.items():
            start = time.perf_counter()
            form()
            if turn:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def report(label: str, best: dict[str, float]) -> None:
    """One line: times, our ratio to the fastest peer (above 1: we are faster), share of the product's bound."""
    bound, ours = best.pop("bound"), best.pop("ours")
    peers = "  ".join(f"{name} {seconds * 1e3:.0f}" for name, seconds in best.items())
    ratio = min(best.values()) / ours
    print(
        f"  {label:26s} ours {ours * 1e3:5.0f} ms   {peers} ms   ratio {ratio:4.2f}   bound {bound / ours:4.0%}",
        flush=True,
    )


def compare(kept: Tensor, peers: Peers, clean: Tensor, noise: Tensor, options: argparse.Namespace) -> None:
    """All scores at all noise levels, for one way of holding the data."""
    conditioned, unconditioned = Conditioned(kept), Unconditioned(kept)
    mixture = Unconditioned(kept, shell_touch(0.01, 50, clean[0].numel()))
    tempered = {t: Tempered(kept, t) for t in options.temperature}

    def at_level(sigma: float) -> None:
        x = clean + sigma * noise
        flat = x.flatten(1)
        bound: dict[str, Callable[[], Tensor]] = {"bound": lambda: flat @ peers.data.T}

        def timed(label: str, **forms: Callable[[], Tensor]) -> None:
            report(f"{label}, σ = {sigma:g}", interleaved(bound | forms, options.repeat))

        timed(
            "conditioned",
            ours=lambda: conditioned(x, sigma),
            product=lambda: peers.product(flat, sigma),
            cdist=lambda: peers.cdist(flat, sigma),
            ideal=lambda: peers.ideal_denoiser(flat, sigma),
        )
        for temperature, score in tempered.items():
            product = partial(peers.power_law, flat, temperature)
            timed(f"T = {temperature:g}", ours=partial(score, x), product=product)
        if options.mixture:
            timed("mixture of levels", ours=lambda: mixture(x), optimal_shell=lambda: unconditioned(x))

    for sigma in options.sigma:
        at_level(sigma)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, nargs="+", default=[20_000, 50_000])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--sigma", type=float, nargs="+", default=[0.01, 0.1, 0.5, 1, 2, 3, 5, 10, 50])
    parser.add_argument("--temperature", type=float, nargs="+", default=[1, 100, 1000])
    parser.add_argument("--mixture", action="store_true", help="also time the exact mixture, which has no peer")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {os.cpu_count()} cores")
    for count in options.count:
        generator = torch.manual_seed(0)
        packed = blended_emoji(count, generator)
        data = packed.float().div_(255)
        peers = Peers(data.flatten(1))
        clean = data[torch.randint(count, (options.batch,), generator=generator)]
        noise = torch.randn(clean.shape, generator=generator)
        for name, kept in (("float32", data), ("uint8", packed)):
            print(f"M = {count}, d = {clean[0].numel()}, B = {options.batch}, data held as {name}")
            compare(kept, peers, clean, noise, options)


if __name__ == "__main__":
    main()
