"""How many planted copies extraction finds, by how much they were changed, and how many held-out images it flags.

    python tests/benchmarks/bench_planted.py

Samples are the 256 held-out emoji, of which 64 are replaced by changed training images.
"""

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smoothscore.data import Emoji
from smoothscore.data.base import default_cache_dir
from smoothscore.functional import extract
from smoothscore.neighbors import EfficientNetLite0, Pixels, extract_features
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.report.features import training_features

COPIES = 64


def jpeg(images: Tensor, quality: int) -> Tensor:
    decoded = []
    for image in (images * 255).round().byte().permute(0, 2, 3, 1).numpy():
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
        decoded.append(torch.from_numpy(np.array(Image.open(buffer))))
    return torch.stack(decoded).permute(0, 3, 1, 2).float() / 255


def noisy(images: Tensor, scale: float) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + scale * noise).clamp(0, 1)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "noise 0.01": lambda x: noisy(x, 0.01),
    "noise 0.02": lambda x: noisy(x, 0.02),
    "noise 0.05": lambda x: noisy(x, 0.05),
    "JPEG 95": lambda x: jpeg(x, 95),
    "JPEG 75": lambda x: jpeg(x, 75),
    "5 % darker": lambda x: 0.95 * x,
    "moved by a pixel": lambda x: x.roll(1, -1),
    "mirrored": lambda x: x.flip(-1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quantile", type=float, default=0.3)
    parser.add_argument("--cache", type=Path, default=default_cache_dir())
    args = parser.parse_args()
    data = Emoji()
    train, held_out = data.train.pixels, data.test.pixels.float() / 255
    rows = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:COPIES]
    lite0 = EfficientNetLite0()
    reference = training_features(
        train, torch.arange(len(train)), lite0, digest=digest_tensor(train), cache_dir=args.cache
    )

    def by_lite0(images: Tensor) -> Tensor:
        whole = len(images) == len(train)
        return reference if whole else extract_features(images, lite0, progress=False)

    def by_pixels(images: Tensor) -> Tensor:
        return extract_features(images, Pixels(), progress=False)

    print(f"| change | candidates | kept by Lite0 | kept by pixels | held-out kept by Lite0 (of {256 - COPIES}) |")
    print("|---|---|---|---|---|")
    for name, change in CHANGES.items():
        samples = held_out.clone()
        samples[:COPIES] = change(train[rows].float() / 255)
        found = {
            key: extract(samples, train, quantile=args.quantile, flips=True, featurize=space)
            for key, space in (("lite0", by_lite0), ("pixels", by_pixels))
        }
        right = found["lite0"].index[:COPIES] == rows
        share = [f"{int((part[:COPIES] & right).sum())} of {COPIES}" for part in
                 (found["lite0"].candidate, found["lite0"].flagged, found["pixels"].flagged)]  # fmt: skip
        print(f"| {name} | {share[0]} | {share[1]} | {share[2]} | {int(found['lite0'].flagged[COPIES:].sum())} |")
    null = [extract(held_out, train, quantile=args.quantile, featurize=space) for space in (by_lite0, by_pixels)]
    print(f"held-out images alone: {int(null[0].flagged.sum())} (Lite0), {int(null[1].flagged.sum())} (pixels) of 256")


if __name__ == "__main__":
    main()
