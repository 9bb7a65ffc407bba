"""Time, memory and recall of neighbor tables as the rows grow: clustered synthetic features, one process per size.

Run: python tests/benchmarks/bench_scale.py [--rows 20000 100000] [--index ivf_flat] [--dim 512] [--k 30] [--out DIR]

Every size is noted in DIR/scale.json as soon as it is done and is not run again; --figure draws all that is there.
The growth t = a M^b is fitted per index to the sizes done. One million rows: --rows 1000000.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def clustered_features(rows: int, dim: int, latent: int, seed: int = 0) -> Tensor:
    """Vectors of length 1, float32 [rows, dim]: a cluster per 1000 rows, varying as much within as between clusters.

    Within a cluster they vary in `latent` directions, plus a tenth as much noise in all: features of images have few
    effective dimensions too, and without structure no search structure finds anything.
    """
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(max(10, rows // 1000), dim, generator=generator)
    directions = torch.randn(latent, dim, generator=generator) / latent**0.5
    label = torch.randint(0, len(centers), (rows,), generator=generator)
    features = torch.empty(rows, dim)
    for start in range(0, rows, 1 << 15):
        part = features[start : start + (1 << 15)]
        torch.randn(part.shape, generator=generator, out=part)
        part.mul_(0.05).add_(centers[label[start : start + (1 << 15)]])
        part.addmm_(torch.randn(len(part), latent, generator=generator), directions)
        torch.nn.functional.normalize(part, dim=1, out=part)
    return features


def measure(rows: int, index: str, dim: int, latent: int, k: int, probes: int | None) -> dict[str, Any]:
    """Build one table's worth of neighbors in this process."""
    from smoothscore.neighbors.approximate import search_approximate
    from smoothscore.neighbors.index import search
    from smoothscore.neighbors.table import EXACT, NeighborTable

    features = clustered_features(rows, dim, latent)
    start = time.perf_counter()
    if index == "exact":
        found, accuracy = search(features, k), EXACT
    else:
        found, accuracy = search_approximate(features, k, index=index, probes=probes, progress=True)
    seconds = time.perf_counter() - start
    NeighborTable(*found)  # checks every row
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    options = {"rows": rows, "dim": dim, "latent": latent, "k": k, "cores": os.cpu_count()}
    return {**options, **accuracy._asdict(), "seconds": seconds, "peak_gib": peak / 2**30}


def growth(points: list[dict[str, Any]]) -> tuple[float, float] | None:
    """Least squares of log t = log a + b log M: (a, b)."""
    if len(points) < 2:
        return None
    x = torch.tensor([math.log(point["rows"]) for point in points], dtype=torch.float64)
    y = torch.tensor([math.log(point["seconds"]) for point in points], dtype=torch.float64)
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())
    return math.exp(float(y.mean()) - slope * float(x.mean())), slope


def figure(groups: dict[str, list[dict[str, Any]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    chart, axes = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for name, points in groups.items():
        fitted = growth(points)
        label = f"{name}, t ∝ M^{fitted[1]:.2f}" if fitted else name
        axes.loglog([p["rows"] for p in points], [p["seconds"] for p in points], "o-", label=label)
    axes.set(xlabel="rows M", ylabel="seconds")
    axes.grid(alpha=0.3)
    axes.legend()
    chart.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 100_000], help="sizes M")
    parser.add_argument("--index", nargs="+", default=["ivf_flat"], help="exact, ivf_flat, hnsw, ivf_pq")
    parser.add_argument("--dim", type=int, default=512, help="values per row")
    parser.add_argument("--latent", type=int, default=16, help="directions in which a cluster varies")
    parser.add_argument("--k", type=int, default=30, help="neighbors, the row itself included")
    parser.add_argument("--probes", type=int, help="fixed, instead of as many as a recall of 0.95 takes")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_scale"), help="folder of scale.json")
    parser.add_argument("--figure", type=Path, help="draw all sizes of scale.json (png or svg)")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.single:
        print(json.dumps(measure(args.rows[0], args.index[0], args.dim, args.latent, args.k, args.probes)))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    notes = args.out / "scale.json"
    done: dict[str, dict[str, Any]] = json.loads(notes.read_text()) if notes.exists() else {}
    for index in args.index:
        for rows in args.rows:
            options = [f"--{name}={getattr(args, name)}" for name in ("dim", "latent", "k")]
            options += [f"--probes={args.probes}"] if args.probes else []
            key = " ".join([index, str(rows), *options])
            if key not in done:
                command = [sys.executable, __file__, "--single", "--rows", str(rows), "--index", index, *options]
                finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                done[key] = json.loads(finished.stdout.splitlines()[-1])
                partial = notes.with_suffix(".tmp")
                partial.write_text(json.dumps(done, indent=1))
                partial.replace(notes)
    groups: dict[str, list[dict[str, Any]]] = {}
    for point in sorted(done.values(), key=lambda point: point["rows"]):
        groups.setdefault(f"{point['index']} {point['dim']}", []).append(point)
    print("| index | rows | dim | seconds | recall | probes | peak GiB |\n|---|---|---|---|---|---|---|")
    for points in groups.values():
        for p in points:
            cells = [p["index"], f"{p['rows']:,}", p["dim"], f"{p['seconds']:.1f}", f"{p['recall']:.4f}", p["probes"]]
            print("| " + " | ".join(map(str, [*cells, f"{p['peak_gib']:.2f}"])) + " |")
    for name, points in groups.items():
        if fitted := growth(points):
            print(f"{name}: t = {fitted[0]:.3g} s · M^{fitted[1]:.3f} ({len(points)} sizes)")
    if args.figure:
        figure(groups, args.figure)


if __name__ == "__main__":
    main()
