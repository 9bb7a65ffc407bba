"""Time and memory of extraction, side by side with one faiss flat search of the same sizes.

    python tests/benchmarks/bench_extract.py
    python tests/benchmarks/bench_extract.py --samples 10000            # the whole of it
    python tests/benchmarks/bench_extract.py --samples 100000 --no-faiss --block 1024   # memory of a long audit

Training images are uint8, as data modules hold them, and so are samples; faiss is given float32 and is timed with and
without the conversion. Both find the 50 nearest.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from importlib.resources import files

import faiss
import numpy as np
import torch
from torch import Tensor

from smoothscore.functional.matching import Matcher

K = 50


def emoji_like(rows: int, seed: int) -> Tensor:
    """Embedded images with noise, uint8 [rows, 3, 32, 32], a block at a time."""
    with np.load(str(files("smoothscore.data") / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        images = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(seed)
    out = torch.empty(rows, *images.shape[1:], dtype=torch.uint8)
    for start in range(0, rows, 4096):
        index = torch.randint(len(images), (min(4096, rows - start),), generator=generator)
        noise = 20 * torch.randn((len(index), *images.shape[1:]), generator=generator)
        out[start : start + len(index)] = (images[index] + noise).clamp(0, 255).byte()
    return out


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--train", type=int, default=50_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--block", type=int, default=1024, help="samples matched at a time, as the command does")
    parser.add_argument("--no-faiss", action="store_true")
    args = parser.parse_args()
    train, samples = emoji_like(args.train, 0), emoji_like(args.samples, 1)
    print(
        f"{os.cpu_count()} cores, threads: torch {torch.get_num_threads()}, faiss {faiss.omp_get_max_threads()}; "
        f"torch {torch.__version__}, faiss {faiss.__version__}; {args.samples} × {args.train}, d = 3072, k = {K}"
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def ours() -> None:
        matcher = Matcher(train, neighbors=K)
        for part in torch.split(samples, args.block):
            matcher.match(part)

    def search() -> None:
        faiss.knn(queries, rows, K)

    seconds: dict[str, list[float]] = {"ours, whole": []}
    for _ in range(args.repeats):
        seconds["ours, whole"].append(timed(ours))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"  memory beyond the images: {(peak - before) / 2**20:.2f} GiB")
    if not args.no_faiss:
        start = time.perf_counter()
        rows, queries = train.flatten(1).float().numpy(), samples.flatten(1).float().numpy()
        conversion = time.perf_counter() - start
        seconds |= {"faiss, search alone": []}
        for _ in range(args.repeats):  # in turn, so that other work on the machine disturbs both alike
            seconds["faiss, search alone"].append(timed(search))
            seconds["ours, whole"].append(timed(ours))
        print(f"  conversion to float32 for faiss: {conversion:.2f} s")
    best = {name: min(values) for name, values in seconds.items()}
    for name, value in best.items():
        print(f"  {name:<20} {value:8.2f} s   all: {', '.join(f'{one:.2f}' for one in seconds[name])}")
    if not args.no_faiss:
        print(f"  ratio to the search alone {best['ours, whole'] / best['faiss, search alone']:.3f}")


if __name__ == "__main__":
    main()
