"""Duplicates of a data set: found in pixels and features, clustered, and listed for exclusion."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.data.base import default_cache_dir
from smoothscore.data.exclusion import Exclusion
from smoothscore.data.samples import write_atomically
from smoothscore.data.sources import Images
from smoothscore.distances import decode
from smoothscore.errors import UserError
from smoothscore.functional.duplicates import NearPairs, clusters, near_pairs
from smoothscore.functional.rows import check_rows, equal_rows
from smoothscore.neighbors import extractor_name
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.report.features import training_features


@dataclass(frozen=True)
class Repeat:
    """An image that repeats an earlier one.

    Attributes:
        row: its row.
        name: its file, or its row.
        keep: row of the cluster's first image, which stays.
        keep_name: its file, or its row.
        kind: the strictest link that joins it to the cluster: "exact", "pixels" or "features".
        direct: it is linked to `keep` itself, and not only by way of others.
        distance: root mean square difference from `keep` in pixels, mirrored where that is nearer and asked for.
        feature_distance: L2 from `keep` in features; None where they were not compared.
    """

    row: int
    name: str
    keep: int
    keep_name: str
    kind: str
    direct: bool
    distance: float
    feature_distance: float | None


@dataclass(frozen=True)
class Duplicates:
    """What was found in a data set.

    Attributes:
        source: where the images came from.
        data: their digest.
        num_rows: M.
        pixel_threshold: root mean square difference of near duplicates.
        feature_threshold: L2 in features of near duplicates; None where features were not compared.
        extractor: name of the feature space.
        flips: mirrored images count as duplicates.
        repeats: ascending in (keep, row).
    """

    source: str
    data: str
    num_rows: int
    pixel_threshold: float
    feature_threshold: float | None
    extractor: str | None
    flips: bool
    repeats: tuple[Repeat, ...]

    @property
    def clusters(self) -> dict[int, list[Repeat]]:
        """Repeats by the row that stays, largest cluster first."""
        found: dict[int, list[Repeat]] = {}
        for repeat in self.repeats:
            found.setdefault(repeat.keep, []).append(repeat)
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    def count(self, kind: str) -> int:
        """Repeats of one kind."""
        return sum(repeat.kind == kind for repeat in self.repeats)

    @property
    def exclusion(self) -> Exclusion:
        """All repeats, as a list that data modules take."""
        rows = torch.tensor(sorted(repeat.row for repeat in self.repeats), dtype=torch.int64)
        return Exclusion(self.data, self.num_rows, rows)

    def write(self, out: Path) -> list[Path]:
        """Write duplicates.csv, duplicates.json, exclude.json and exclude.csv."""
        table, summary = out / "duplicates.csv", out / "duplicates.json"
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, [item.name for item in fields(Repeat)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, self.repeats))
        write_atomically(table, text.getvalue().encode())
        content = asdict(self)
        content["counts"] = {kind: self.count(kind) for kind in ("exact", "pixels", "features")}
        content["clusters"] = len(self.clusters)
        write_atomically(summary, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        lists = [out / "exclude.json", out / "exclude.csv"]
        for path in lists:
            self.exclusion.save(path)
        return [table, summary, *lists]


def find_duplicates(
    train: Images,
    *,
    pixel_threshold: float = 0.04,
    feature_threshold: float = 0.15,
    extractor: nn.Module | None = None,
    flips: bool = False,
    device: torch.device | str = "cpu",
    cache_dir: Path | None = None,
) -> Duplicates:
    """Find exact duplicates, near ones in pixels and near ones in features, and join them to clusters (union-find).

    Args:
        train: the images [M, *S].
        pixel_threshold: ‖x − y‖/√d of near duplicates; 0 finds exact ones only.
        feature_threshold: ‖φ(x) − φ(y)‖ of near duplicates.
        extractor: φ; None compares pixels only.
        flips: compare mirrored pixels too.
        device: where distances and features are computed.
        cache_dir: where features are kept; None is the package's cache.

    Returns:
        `Duplicates`; of each cluster the first row stays.

    Raises:
        UserError: fewer than two images, a NaN (its row is named), or a threshold that is none of duplicates.
    """
    check_rows(train.source, train.pixels, at_least=2)
    for name, value in (("pixel_threshold", pixel_threshold), ("feature_threshold", feature_threshold)):
        if not value >= 0:
            raise UserError(f"{name} is {value}, but a distance is at least 0.")
    digest = digest_tensor(train.pixels)
    first = equal_rows(train.pixels)
    rows = (first == torch.arange(len(first))).nonzero().flatten()
    repeated = (first != torch.arange(len(first))).nonzero().flatten()
    links = [(torch.stack([first[repeated], repeated], dim=1), "exact")]
    features = None
    if len(rows) > 1:
        images = (train.pixels[rows] if len(rows) < len(first) else train.pixels).to(device)
        root = math.sqrt(images[0].numel())
        near = _searched("near duplicates (pixels)", images, pixel_threshold * root, flips)
        links.append((rows[near.pairs.cpu()], "pixels"))
    if extractor is not None and len(rows) > 1:
        features = training_features(
            train.pixels, rows, extractor, digest=digest, cache_dir=cache_dir or default_cache_dir(), device=device
        )
        name = extractor_name(extractor)
        alike = _searched(f"near duplicates ({name})", features.to(device), feature_threshold, False)
        links.append((rows[alike.pairs.cpu()], "features"))
    return Duplicates(
        train.source,
        digest,
        len(first),
        pixel_threshold,
        None if extractor is None else feature_threshold,
        None if extractor is None else extractor_name(extractor),
        flips,
        tuple(_repeats(train, links, first, rows, features, flips)),
    )


def _searched(name: str, data: Tensor, threshold: float, flips: bool) -> NearPairs:
    with tqdm(total=len(data), desc=name, unit="image", delay=2) as bar:
        return near_pairs(data, threshold, flips=flips, advance=bar.update)


def _repeats(
    train: Images,
    links: list[tuple[Tensor, str]],
    first: Tensor,
    rows: Tensor,
    features: Tensor | None,
    flips: bool,
) -> list[Repeat]:
    label = clusters(torch.cat([pairs for pairs, _ in links]), len(first)).tolist()
    kinds: dict[int, str] = {}
    direct = set()
    for pairs, kind in links:  # the strictest kind comes first
        for one, other in pairs.tolist():
            keep = label[one]
            for row in (other,) if kind == "exact" else (one, other):
                kinds.setdefault(row, kind)
            direct |= {other} if one == keep else {one} if other == keep else set()
    place = torch.searchsorted(rows, first).tolist()
    found = []
    for row, keep in enumerate(label):
        if row == keep:
            continue
        own, kept = (decode(train.pixels[at]).double() for at in (row, keep))
        ways = [own, own.flip(-1)] if flips else [own]
        distance = min(float((way - kept).square().mean().sqrt()) for way in ways)
        apart = None if features is None else float((features[place[row]] - features[place[keep]]).norm())
        # a repeat of a row that is linked directly is linked as directly
        linked = row in direct or int(first[row]) == keep or int(first[row]) in direct
        found.append(Repeat(row, train.name(row), keep, train.name(keep), kinds[row], linked, distance, apart))
    return sorted(found, key=lambda repeat: (repeat.keep, repeat.row))
