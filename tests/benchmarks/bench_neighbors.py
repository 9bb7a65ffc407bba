"""Neighbor tables against bare faiss, and gathering neighbors against the bytes that must move; interleaved.

Run: python tests/benchmarks/bench_neighbors.py [--rows 1412 20000] [--dims 3072 1280] [--repeats 5] [--skip-table]
"""

import argparse
import os
import time
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import torch
from torch import Tensor

from smoothscore.neighbors import NeighborStore, NeighborTable, build_neighbors
from smoothscore.neighbors.index import require_faiss, search

# After torch, as the package does: the one that comes first brings the OpenMP threads that both then share.
faiss = require_faiss()
K = 30


def emoji_with_noise(rows: int) -> Tensor:
    """The embedded images, uint8 [rows, 3, 32, 32], repeated with noise where there are not enough."""
    with np.load(str(files("smoothscore.data") / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        images = torch.from_numpy(archive["x"]).permute(0, 3, 1, 2)
    index = torch.arange(rows) % len(images)
    noise = 20 * torch.randn((rows, *images.shape[1:]), generator=torch.Generator().manual_seed(0))
    noise[: len(images)] = 0
    return (images[index] + noise).clamp(0, 255).byte().contiguous()


def clustered_features(rows: int, dim: int) -> Tensor:
    """Feature-like vectors of length 1 around a hundred centers, float32 [rows, dim]."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.rand(100, dim, generator=generator)
    noise = 0.3 * torch.rand(rows, dim, generator=generator)
    return torch.nn.functional.normalize(centers[torch.arange(rows) % 100] + noise, dim=1)


def interleave(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time every call once a round; the best of each in seconds, which other work on the machine disturbs least."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            time.sleep(0.05)  # threads of the call before spin a while before they sleep, and would be in the way
            start = time.perf_counter()
            call()
            if round_:  # the first round only warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: min(values) for name, values in seconds.items()}


def bare_faiss(rows: np.ndarray) -> None:
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    index.search(rows, K)


def bench_table(data: Tensor, repeats: int) -> None:
    """Images go through the whole of build_neighbors, features [M, F] through the search that follows extraction."""
    rows = data.flatten(1).float().numpy()
    name, ours = (
        ("search of features", lambda: search(data, K))
        if data.ndim == 2
        else ("build_neighbors", lambda: build_neighbors(data, K, progress=False))
    )
    taken = interleave({"bare faiss": lambda: bare_faiss(rows), "ours": ours}, repeats)
    print(
        f"  {len(data):6} × {rows.shape[1]:5} {str(data.dtype)[6:]:<8} bare faiss {taken['bare faiss']:8.3f} s   "
        f"{name} {taken['ours']:8.3f} s   ratio {taken['ours'] / taken['bare faiss']:.3f}"
    )


def bench_gather(batch: int, k: int, dim: int, repeats: int) -> None:
    rows = 2**28 // dim  # 256 MiB of pixels, more than any cache holds
    generator = torch.Generator().manual_seed(0)
    data = torch.randint(0, 256, (rows, dim), generator=generator, dtype=torch.uint8)
    indices = torch.randint(0, rows, (rows, k), generator=generator)
    indices[:, 0] = torch.arange(rows)
    indices[:, 1:] = torch.where(indices[:, 1:] == indices[:, :1], (indices[:, 1:] + 1) % rows, indices[:, 1:])
    store = NeighborStore(NeighborTable(indices, torch.zeros(rows, k)), data)
    index = torch.randperm(rows, generator=generator)[:batch]
    out, other = torch.empty(batch, k, dim), torch.ones(batch, k, dim)
    taken = interleave(
        {
            "plain, fresh memory": lambda: data[indices[index]].float() / 255,
            "store, fresh memory": lambda: store.images(index),
            "clearing fresh memory": lambda: torch.ones(batch, k, dim),
            "store, own buffer": lambda: store.images(index, out=out),
            "copy": lambda: out.copy_(other),
        },
        repeats,
    )
    # A copy reads 4 and writes 4 bytes a value; gathering reads 1 and writes 4.
    taken["bound (bytes moved)"] = taken.pop("copy") * 5 / 8
    print(f"  (B, K, d) = ({batch}, {k}, {dim}): {batch * k * dim * 5 / 2**20:.0f} MiB moved")
    for name, seconds in taken.items():
        print(f"    {name:<24} {1e3 * seconds:8.2f} ms   {seconds / taken['bound (bytes moved)']:6.2f} × bound")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[1412, 20000])
    parser.add_argument("--dims", type=int, nargs="+", default=[3072, 1280], help="3072: pixels; others: features")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-table", action="store_true")
    args = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, threads: torch {torch.get_num_threads()}, faiss {faiss.omp_get_max_threads()}; "
        f"torch {torch.__version__}, faiss {faiss.__version__}"
    )
    if not args.skip_table:
        print(f"table, K = {K}:")
        for rows in args.rows:
            for dim in args.dims:
                if dim == 3072:
                    pixels = emoji_with_noise(rows)
                    bench_table(pixels, args.repeats)
                    bench_table(pixels.float() / 255, args.repeats)
                else:
                    bench_table(clustered_features(rows, dim), args.repeats)
    print("gather (uint8 to float32):")
    for batch, k, dim in ((128, 30, 3072), (128, 100, 3072), (64, 30, 12288)):
        bench_gather(batch, k, dim, args.repeats)


if __name__ == "__main__":
    main()
