"""The noise that is in an image: what the score tells of it, and what a search of the training images does."""

import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from tqdm import tqdm

from smoothscore.data import ImageDataModule
from smoothscore.distances import decode
from smoothscore.experiments.base import Finding, Row
from smoothscore.samplers import NearestSearch, project_noise
from smoothscore.samplers.noise_level import center_and_spread
from smoothscore.samplers.watch import Score
from smoothscore.schedules import log_uniform

_IMAGES = 64
_REPEAT = 5
_LEVELS = 13


@torch.no_grad()
def estimate_rows(score: Score, data: ImageDataModule, sigma_min: float, sigma_max: float, seed: int) -> list[Row]:
    """Estimate σ of x = μ + σ ε from the score's direction and by a search, for training and held-out images μ.

    The score is told σ_max whatever σ is, since a blind one has no use for more. An estimate is the median over the
    images, an error the median of |estimate/σ − 1|; times are for a batch, in ms, the search after its first look.
    """
    generator = torch.Generator().manual_seed(seed)
    train = data.train.pixels
    search = NearestSearch(train)
    center, spread = center_and_spread(train)
    rows: list[Row] = []
    for images, pixels in (("training", train), ("held-out", data.test.pixels)):
        clean = decode(pixels[torch.randint(len(pixels), (_IMAGES,), generator=generator)])
        noise = torch.randn(clean.shape, generator=generator)
        tracker, told = search.track(), torch.full((len(clean),), sigma_max)
        for sigma in tqdm(log_uniform(sigma_min, sigma_max, _LEVELS).flip(0).tolist(), desc=f"σ*, {images}"):
            x = clean + sigma * noise
            s = score(x, told)
            searched = tracker(x).distance[:, 0] / clean[0].numel() ** 0.5
            projected = project_noise(x, s, center)
            rows.append(
                {
                    "kind": "estimate",
                    "images": images,
                    "sigma": sigma,
                    "spread": spread,
                    "searched": float(searched.median()),
                    "projected": float(projected.median()),
                    "searched_error": float((searched / sigma - 1).abs().median()),
                    "projected_error": float((projected / sigma - 1).abs().median()),
                    "network_ms": _milliseconds(partial(score, x, told)),
                    "projected_ms": _milliseconds(partial(project_noise, x, s, center)),
                    "searched_ms": _milliseconds(partial(tracker, x)),
                }
            )
    return rows


def _milliseconds(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(_REPEAT):
        begin = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begin)
    return 1e3 * best


def on_estimates(rows: Sequence[Row]) -> list[Finding]:
    """How right the two are above and below the images' spread, and what they take."""
    spread = float(rows[0]["spread"])
    above = [row for row in rows if row["sigma"] > spread]
    below = [row for row in rows if row["sigma"] <= spread]
    found = []
    for words, part in ((f"above the images' spread ({spread:.2g})", above), ("below it", below)):
        for images in ("training", "held-out"):
            mine = [row for row in part if row["images"] == images]
            if mine:
                told, searched = (max(row[f"{by}_error"] for row in mine) for by in ("projected", "searched"))
                found.append(f"{words}, {images} images: score {told:.1%}, search {searched:.1%}")
    times = {by: sorted(row[f"{by}_ms"] for row in rows)[len(rows) // 2] for by in ("network", "projected", "searched")}
    return [
        Finding("error of the noise level, the worst level's median", "; ".join(found)),
        Finding(
            f"ms for {_IMAGES} images",
            f"score {times['projected']:.2f}, search {times['searched']:.2f}, the network {times['network']:.2f}",
        ),
    ]
