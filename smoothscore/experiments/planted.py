"""Planted copies: which measure finds how many, and how often it calls fresh images copies."""

from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.data import Emoji, ImageDataModule
from smoothscore.distances import decode
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, new_figure, paper_style
from smoothscore.experiments.detection import LABELS, LEVEL, NEW, Detectors, line, spaces_of, take
from smoothscore.functional.rows import unique_rows
from smoothscore.neighbors import EfficientNetLite0


def _noised(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    return (images + 0.05 * noise).clamp(0, 1)


def _colored(images: Tensor) -> Tensor:
    gain = torch.ones(images.shape[1], 1, 1)
    gain[0], gain[-1] = 0.95, 0.9
    return images * gain


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "exact": lambda images: images,
    "noise 0.05": _noised,
    "shift 1 pixel": lambda images: images.roll(1, -1),
    "flip": lambda images: images.flip(-1),
    "color 5-10 %": _colored,
}


class Sizes(NamedTuple):
    """How the images are dealt in every split."""

    train: int
    held_out: int
    samples: int


def planted(
    shares: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2),
    *,
    data: ImageDataModule | None = None,
    extractor: nn.Module | None = None,
    num_splits: int = 20,
    num_held_out: int = 256,
    num_samples: int = 256,
    seed: int = 0,
) -> Result:
    """How often each measure finds planted copies at level 5 %, and how often it accuses a model without any.

    All images are dealt anew into training images, held-out images and fresh ones, num_splits times. "Samples" are
    fresh images of which a share is replaced by training images: exact, with noise of deviation 0.05, moved by a pixel,
    mirrored, or with 5 to 10 % less of two colors. Every measure has the held-out images as control: a share of caught
    images (d1/d2, Carlini's calibrated distance, AuthPct) is compared by Fisher's exact test.

    Columns: `power`, part of the splits with p ≤ 5 %: the false-alarm rate where the share is 0, with a Monte Carlo
    error of √(power(1−power)/num_splits). `caught`, share of all copies that the rule for single images catches;
    `false_caught`, the share of fresh images that it catches.

    Args:
        shares: of the samples that are copies; 0 is always among them.
        data: images, training and test set together; all emoji at 32×32 by default.
        extractor: features beside pixels; EfficientNet-Lite0 by default, and Pixels for pixels alone.
        num_splits: how often the images are dealt.
        num_held_out: held-out images of a split.
        num_samples: samples of a split; the training images are the rest.
        seed: of the splits.

    Raises:
        UserError: a share outside 0 to 1, or of less than one sample; too few images for such splits.

    Source: the open question of arXiv 2601.19285, Sec. 6.
    """
    check_positive(num_splits=num_splits, num_held_out=num_held_out, num_samples=num_samples)
    if not shares or not all(0 <= share <= 1 and (round(share * num_samples) or not share) for share in shares):
        raise UserError(
            f"shares are {shares}: give at least one, each from 0 to 1, and 0 or at least one of {num_samples} samples."
        )
    data = data if data is not None else Emoji()
    pixels = torch.cat([data.train.pixels, data.test.pixels])
    pixels = pixels[unique_rows(pixels)]
    sizes = Sizes(len(pixels) - num_held_out - num_samples, num_held_out, num_samples)
    counts = {share: round(share * num_samples) for share in sorted({0.0, *shares})}
    most = max(counts.values())
    if sizes.train < 2 * max(1, most):
        raise UserError(
            f"There are {len(pixels)} different images, too few for {num_held_out} held-out images, {num_samples} "
            "samples and twice as many training images as copies: lower num_held_out or num_samples."
        )
    extractor = extractor if extractor is not None else EfficientNetLite0()
    images = decode(pixels).float()
    seen = {
        name: spaces_of(change(images), extractor) for name, change in tqdm(CHANGES.items(), desc="features of changes")
    }
    power: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    caught: dict[tuple[str, str], list[float]] = defaultdict(list)
    for split in tqdm(range(num_splits), desc="splits", unit="split"):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed + split))
        trained, held_out, drawn = torch.split(order, list(sizes))
        detectors = Detectors(*(take(seen["exact"], rows) for rows in (trained, held_out)), seed=seed + split)
        fresh = detectors.look(take(seen["exact"], drawn))
        for name, flags in fresh.caught.items():
            caught["fresh", name].append(float(flags.double().mean()))
        for verdict in detectors.judge([(fresh, slice(None))]):
            power["none", verdict.detector, 0.0].append(verdict.p_value)
        for change in CHANGES if most else ():
            copies = detectors.look(take(seen[change], trained[:most]))
            for name, flags in copies.caught.items():
                caught[change, name].append(float(flags.double().mean()))
            for share, number in list(counts.items())[1:]:
                for verdict in detectors.judge([(copies, slice(number)), (fresh, slice(number, None))]):
                    power[change, verdict.detector, share].append(verdict.p_value)
    rows = [_row(key, p, caught) for key, p in power.items()]
    return Result("planted", rows, _findings(rows, num_splits), _figure(rows))


def _row(key: tuple[str, str, float], p: list[float], caught: dict[tuple[str, str], list[float]]) -> Row:
    change, detector, share = key
    of_copies, of_fresh = caught.get((change, detector)), caught.get(("fresh", detector))
    return {
        "change": change,
        "measure": detector,
        "share": share,
        "power": sum(value <= LEVEL for value in p) / len(p),
        "median_p": sorted(p)[len(p) // 2],
        "caught": None if of_copies is None else sum(of_copies) / len(of_copies),
        "false_caught": None if of_fresh is None else sum(of_fresh) / len(of_fresh),
    }


def _findings(rows: list[Row], num_splits: int) -> list[Finding]:
    null = {row["measure"]: row["power"] for row in rows if row["change"] == "none"}
    limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / num_splits) ** 0.5
    loudest = max(null, key=lambda name: null[name])
    findings = [
        Finding(
            f"Excess copies accuse a model without copies in at most 5 % of the splits (two deviations: {limit:.0%})",
            f"{null[NEW]:.0%}, by labels {null[LABELS]:.0%}; most often {loudest}, {null[loudest]:.0%}",
            max(null[NEW], null[LABELS]) <= limit,
        )
    ]
    for share in sorted({row["share"] for row in rows} - {0.0}):
        powers: dict[str, dict[str, float]] = defaultdict(dict)
        for row in rows:
            if row["share"] == share:
                powers[row["measure"]][row["change"]] = row["power"]
        worst = {name: min(found, key=lambda change: found[change]) for name, found in powers.items()}
        others = [name for name in powers if name not in (NEW, LABELS)]
        best = max(others, key=lambda name: powers[name][worst[name]])
        findings.append(
            Finding(
                f"{share:.0%} of copies, whatever was changed: excess copies find more than any one other measure",
                f"{powers[NEW][worst[NEW]]:.0%} at least ({worst[NEW]}) against {powers[best][worst[best]]:.0%} "
                f"({best}, {worst[best]})",
                powers[NEW][worst[NEW]] > powers[best][worst[best]],
            )
        )
    return findings


@paper_style()
def _figure(rows: list[Row]) -> Figure:
    names = list(dict.fromkeys(row["measure"] for row in rows))
    figure, axes = new_figure(3, 2, height=2.3)
    panels = axes.flatten()
    null = {row["measure"]: row["power"] for row in rows if row["change"] == "none"}
    for panel, change in zip(panels, CHANGES, strict=False):
        for number, name in enumerate(names):
            part = [row for row in rows if row["measure"] == name and row["change"] == change]
            shares = [0.0, *(row["share"] for row in part)]
            panel.plot(shares, [null[name], *(row["power"] for row in part)], **line(name, number), label=name)
        panel.axhline(LEVEL, color="black", linestyle="--", linewidth=0.6)
        panel.set(title=change, ylim=(-0.03, 1.03), xlabel="share of copies", ylabel="found at level 5 %")
    handles, labels = panels[0].get_legend_handles_labels()
    panels[-1].axis("off")
    panels[-1].legend(handles, labels, loc="center")
    return figure
