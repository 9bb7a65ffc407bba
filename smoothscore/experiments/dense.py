"""Dense data: where the ratio of distances stops telling copies from fresh images, and what still does."""

from collections import defaultdict
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

KINDS = {"variants": 1.0, "bursts": 1 / 3}  # and how strong variants are

_Key = tuple[str, int, float, str]  # kind, variants, noise, and what was measured


class _Sizes(NamedTuple):
    """How many images are dealt."""

    images: int
    most: int
    held_out: int
    samples: int


def dense(
    variants: tuple[int, ...] = (1, 4, 16),
    *,
    data: ImageDataModule | None = None,
    extractor: nn.Module | None = None,
    num_images: int = 150,
    noises: tuple[float, ...] = (0.02, 0.04),
    share: float = 0.1,
    num_splits: int = 10,
    num_held_out: int = 300,
    num_samples: int = 300,
    seed: int = 0,
) -> Result:
    """How well each measure finds copies as training images come to lie ever closer together.

    An image of the source is varied by a blend with another one, a change of each color, and noise of deviation 0.01.
    Training images are so many variants of each of num_images images. Data are dense in one of two ways:

    * "variants": training, held-out and fresh images are all strong variants (blend up to 30 %, color up to 10 %) of
      the same images, picked at random and dealt at random. Every image has ever nearer neighbors, fresh ones too.
    * "bursts": training images are slight variants (a third of that), equally many of every image, as frames of a film,
      repeated photographs or stored augmentations are; held-out and fresh images are one variant each of other images.
      A copy has many near training images, a fresh image none. As whole bursts are trained on or held out, images are
      not labeled one by one at random, as the p-value by labels supposes.

    "Samples" are fresh images of which a share is replaced by training images with noise.

    Columns: `variants`, training images per image of the source; `fresh_ratio`, `copy_ratio`, median d1/d2 in pixels of
    fresh images and of copies; `power` and `false_alarm`, parts of the splits with p ≤ 5 % with and without copies;
    `caught` and `false_caught`, shares of copies and of fresh images caught by the rule for single images.

    Args:
        variants: training images per image of the source.
        data: the source; all emoji at 16×16 by default.
        extractor: features beside pixels; EfficientNet-Lite0 by default, and Pixels for pixels alone.
        num_images: how many images of the source are varied for training.
        noises: deviations of the noise on copies.
        share: of the samples that are copies.
        num_splits: how often images are dealt.
        num_held_out: held-out images of a split.
        num_samples: samples of a split.
        seed: of variants and splits.

    Raises:
        UserError: a number not above 0, a share above 1, too few images in the source, or fewer training images than
            copies.

    Source: the open question of arXiv 2601.19285, Sec. 6.
    """
    check_positive(variants=variants, num_images=num_images, noises=noises, share=share, num_splits=num_splits)
    check_positive(num_held_out=num_held_out, num_samples=num_samples)
    data = data if data is not None else Emoji(image_size=16)
    source = data.train.pixels[unique_rows(data.train.pixels)]
    sizes = _Sizes(num_images, max(variants), num_held_out, num_samples)
    copies, others = round(share * num_samples), len(source) - num_images
    if share > 1 or copies < 1 or min(variants) * num_images < 2 * copies or others < num_held_out + num_samples:
        raise UserError(
            f"share is {share}, num_samples {num_samples}, num_held_out {num_held_out} and num_images {num_images}: "
            f"take a share up to 1 that is at least one sample, and images twice as many as copies; of the "
            f"{len(source)} different images there are, num_held_out and num_samples must be left over."
        )
    extractor = extractor if extractor is not None else EfficientNetLite0()
    images = decode(source[torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))]).float()
    found: dict[_Key, list[float]] = defaultdict(list)
    bar = tqdm(total=len(KINDS) * len(variants) * num_splits, desc="splits", unit="split")
    for kind in KINDS:
        pool = spaces_of(_pool(kind, images, sizes, torch.Generator().manual_seed(seed)), extractor)
        for count in variants:
            for split in range(num_splits):
                deal = torch.Generator().manual_seed(seed + split)
                trained, held_out, drawn = _dealt(kind, count, len(pool["pixels"]), sizes, deal)
                detectors = Detectors(take(pool, trained), take(pool, held_out), seed=seed + split)
                fresh = detectors.look(take(pool, drawn))
                for verdict in detectors.judge([(fresh, slice(None))]):
                    found[kind, count, 0.0, verdict.detector].append(float(verdict.p_value <= LEVEL))
                chosen = pool["pixels"][trained[torch.randperm(len(trained), generator=deal)[:copies]]]
                for noise in noises:
                    own = detectors.look(spaces_of(_noised(chosen, noise, deal), extractor))
                    for verdict in detectors.judge([(own, slice(None)), (fresh, slice(copies, None))]):
                        found[kind, count, noise, verdict.detector].append(float(verdict.p_value <= LEVEL))
                    for name, flags in own.caught.items():
                        found[kind, count, noise, f"caught {name}"].append(float(flags.double().mean()))
                        found[kind, count, noise, f"false {name}"].append(float(fresh.caught[name].double().mean()))
                    found[kind, count, noise, "copy ratio"].append(float(own.ratio.median()))
                    found[kind, count, noise, "fresh ratio"].append(float(fresh.ratio.median()))
                bar.update()
    bar.close()
    mean = {key: sum(values) / len(values) for key, values in found.items()}
    names = [name for *rest, name in found if rest == [next(iter(KINDS)), variants[0], 0.0]]
    table = [
        _row((kind, c, noise, name), mean) for kind in KINDS for c in variants for noise in noises for name in names
    ]
    return Result("dense", table, _findings(table, num_splits), _figure(table))


def _pool(kind: str, images: Tensor, sizes: _Sizes, generator: torch.Generator) -> Tensor:
    """All variants that splits are dealt from; of bursts, those that are trained on come first, one of each in turn."""
    known = sizes.most * sizes.images
    if kind == "bursts":
        return _varied(
            images,
            torch.cat([torch.arange(known) % sizes.images, torch.arange(sizes.images, len(images))]),
            KINDS[kind],
            generator,
        )
    total = known + 2 * (sizes.held_out + sizes.samples)
    return _varied(images, torch.randint(sizes.images, (total,), generator=generator), KINDS[kind], generator)


def _dealt(
    kind: str, count: int, total: int, sizes: _Sizes, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the pool that are trained on, held out, and drawn."""
    known = count * sizes.images
    if kind == "bursts":
        first = sizes.most * sizes.images
        trained, order = torch.arange(known), first + torch.randperm(total - first, generator=generator)
    else:
        trained, order = torch.randperm(total, generator=generator).tensor_split([known])
    held_out, drawn = order[: sizes.held_out + sizes.samples].tensor_split([sizes.held_out])
    return trained, held_out, drawn


def _varied(images: Tensor, of: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """One variant of each of the images ``of``, blended with any of them."""
    one = images[of]
    other = images[torch.randint(len(images), (len(of),), generator=generator)]
    weight = 0.3 * strength * torch.rand(len(of), 1, 1, 1, generator=generator)
    gain = 1 - 0.1 * strength * torch.rand(len(of), images.shape[1], 1, 1, generator=generator)
    return _noised(gain * ((1 - weight) * one + weight * other), 0.01, generator)


def _noised(images: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    return (images + noise * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def _row(key: _Key, mean: dict[_Key, float]) -> Row:
    kind, count, noise, name = key
    return {
        "kind": kind,
        "variants": count,
        "noise": noise,
        "fresh_ratio": mean[kind, count, noise, "fresh ratio"],
        "copy_ratio": mean[kind, count, noise, "copy ratio"],
        "measure": name,
        "power": mean[key],
        "false_alarm": mean[kind, count, 0.0, name],
        "caught": mean.get((kind, count, noise, f"caught {name}")),
        "false_caught": mean.get((kind, count, noise, f"false {name}")),
    }


def _findings(rows: list[Row], num_splits: int) -> list[Finding]:
    limit = LEVEL + 2 * (LEVEL * (1 - LEVEL) / num_splits) ** 0.5
    alarms = {(r["kind"], r["variants"]): r["false_alarm"] for r in rows if r["measure"] == NEW}
    findings = [
        Finding(
            f"Excess copies accuse fresh images in at most {limit:.0%} of the splits",
            ", ".join(f"{alarm:.0%} ({kind}, {count})" for (kind, count), alarm in alarms.items()),
            max(alarms.values()) <= limit,
        )
    ]
    most = max(row["variants"] for row in rows)
    for kind, noise in dict.fromkeys((row["kind"], row["noise"]) for row in rows):
        part = {r["measure"]: r for r in rows if (r["kind"], r["noise"], r["variants"]) == (kind, noise, most)}
        others = {name: row for name, row in part.items() if name not in (NEW, LABELS)}
        best = max(others, key=lambda name: others[name]["power"])
        ratio = max((name for name in others if name.startswith("d1/d2")), key=lambda name: others[name]["power"])
        findings.append(
            Finding(
                f"{kind}, {most} per image, copies with noise {noise:g}: the ratio finds less than half of the sets, "
                "excess copies 80 %",
                f"{others[ratio]['power']:.0%} by {ratio}, {part[NEW]['power']:.0%} by excess copies; best of the "
                f"others {others[best]['power']:.0%}, {best}",
                others[ratio]["power"] < 0.5 and part[NEW]["power"] >= 0.8,
            )
        )
    return findings


@paper_style()
def _figure(rows: list[Row]) -> Figure:
    names = list(dict.fromkeys(row["measure"] for row in rows))
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    figure, axes = new_figure(len(noises) + 2, len(KINDS), height=2.3, width=2.6 * (len(noises) + 2))
    for panels, kind in zip(axes, KINDS, strict=True):
        for panel, noise in zip(panels, noises, strict=False):
            for number, name in enumerate(names):
                part = [r for r in rows if (r["kind"], r["noise"], r["measure"]) == (kind, noise, name)]
                counts = [row["variants"] for row in part]
                panel.plot(counts, [row["power"] for row in part], **line(name, number), label=name)
            panel.axhline(LEVEL, color="black", linestyle="--", linewidth=0.6)
            panel.set(title=f"{kind}, copies with noise {noise:g}", ylabel="found at level 5 %", ylim=(-0.03, 1.03))
        ratio = panels[-2]
        for number, noise in enumerate(noises):
            part = [r for r in rows if (r["kind"], r["noise"], r["measure"]) == (kind, noise, names[0])]
            counts = [row["variants"] for row in part]
            if not number:
                ratio.plot(counts, [row["fresh_ratio"] for row in part], "o-", color="black", label="fresh images")
            ratio.plot(
                counts, [row["copy_ratio"] for row in part], "o-", color=f"C{number}", label=f"copies, {noise:g}"
            )
        ratio.set(title=kind, ylabel="median $d_1/d_2$ (pixels)", ylim=(0, 1.03))
        ratio.legend()
        for panel in panels[:-1]:
            panel.set(xscale="log", xlabel="training images per image")
            panel.set_xticks(counts, [str(count) for count in counts])
            panel.minorticks_off()
        panels[-1].axis("off")
    axes[0, -1].legend(*axes[0, 0].get_legend_handles_labels(), loc="center left")
    return figure
