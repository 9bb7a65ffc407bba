"""One self-contained page: the table, curves, samples of the same seeds, and the nearest training images."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from smoothscore import __version__
from smoothscore.data.samples import write_atomically
from smoothscore.report import signs
from smoothscore.report.compare import Comparison
from smoothscore.report.curves import Figure, figures
from smoothscore.report.differences import Difference, differences
from smoothscore.report.measure import MeasuredRun
from smoothscore.report.pictures import Pair, data_uris, feature_pairs, grade, pixel_pairs, side_within
from smoothscore.report.table import Column, Row, format_value

PICTURE_BUDGET = 7_500_000  # bytes of all images: pages below 10 MB open without a pause
SEEDS_PER_BLOCK = 16


@dataclass(frozen=True)
class Cell:
    """A sample in the grid of seeds."""

    source: str
    grade: str
    alt: str


@dataclass(frozen=True)
class Block:
    """Some seeds, and what every run makes of them: one tuple of cells per run."""

    seeds: tuple[int, ...]
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Space:
    """The nearest pairs of one run in one space."""

    title: str
    pairs: list[Pair]


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run."""

    name: str
    anchor: str
    css: str
    key: Markup
    facts: str
    spaces: list[Space]


@dataclass(frozen=True)
class Part:
    """One part of the table: its columns, alone and under their headings, and which runs stand out in each."""

    title: str
    anchor: str
    columns: list[Column]
    groups: list[tuple[str, list[Column]]]
    standing: dict[str, dict[str, str]]


@dataclass(frozen=True)
class RowView:
    """A row of the table with its drawing of the interval."""

    row: Row
    key: Markup
    anchor: str
    whisker: Markup


def write_page(comparison: Comparison, path: Path, *, num_seeds: int = 32, num_pairs: int = 15) -> None:
    """Write the comparison as one HTML file that needs no server, no network and no other file.

    Args:
        comparison: what to show.
        path: the file.
        num_seeds: seeds in the grid of samples.
        num_pairs: samples beside their nearest training images, for each run and space.
    """
    environment = Environment(
        loader=PackageLoader("smoothscore", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["breakable"] = _breakable
    context = _context(comparison, num_seeds, num_pairs)
    write_atomically(path, environment.get_template("report.html").render(context).encode())


def _breakable(name: str) -> Markup:
    """A name that may break after an underscore or a slash."""
    return Markup(escape(name).replace("_", Markup("_<wbr>")).replace("/", Markup("/<wbr>")))


def _context(comparison: Comparison, num_seeds: int, num_pairs: int) -> dict[str, Any]:
    side = _side(comparison, num_seeds, num_pairs)
    runs = [_run_view(number, measured, comparison, num_pairs, side) for number, measured in enumerate(comparison.runs)]
    limit = signs.nice_limit(max((row.values["memorized_high"] or 0) for row in comparison.table.rows))
    drawn: list[Figure] = figures(comparison)
    different: list[Difference] = differences([measured.run for measured in comparison.runs])
    return {
        "version": __version__,
        "today": date.today().isoformat(),
        "comparison": comparison,
        "runs": runs,
        "control_key": signs.key(signs.Look.of_control(), "dashed"),
        "table": comparison.table,
        "parts": _parts(comparison),
        "rows": _row_views(comparison, runs, limit),
        "limit": format_value(limit, "percent").replace(".0", ""),
        "figures": drawn,
        "blocks": _blocks(comparison, num_seeds, side),
        "same_seeds": len(_common_seeds(comparison.runs)) > 0,
        "differences": different,
        "side": side,
        "true_side": comparison.runs[0].data.train.shape[-1],
    }


def _side(comparison: Comparison, num_seeds: int, num_pairs: int) -> int:
    spaces = 1 if comparison.extractor == "pixels" else 2
    count = len(comparison.runs) * (num_seeds + 3 * spaces * num_pairs)
    first = comparison.runs[0]
    return side_within(first.data.train[:: max(1, len(first.data.train) // 32)][:32], count, PICTURE_BUDGET)


def _run_view(number: int, measured: MeasuredRun, comparison: Comparison, num_pairs: int, side: int) -> RunView:
    look = signs.Look.of_run(number)
    samples = measured.run.samples
    spaces = [Space("In pixels", pixel_pairs(measured, num_pairs, side))]
    if comparison.extractor != "pixels":
        spaces.append(Space(f"In features ({comparison.extractor})", feature_pairs(measured, num_pairs, side)))
    return RunView(
        measured.run.name,
        f"run-{number + 1}",
        look.css,
        signs.key(look),
        f"{len(samples.images):,} samples after {samples.step:,} steps, {samples.nfe:,} score evaluations each",
        spaces,
    )


def _row_views(comparison: Comparison, runs: Sequence[RunView], limit: float) -> list[RowView]:
    views = []
    data_sets = comparison.data_sets
    controls = iter(data_sets)
    rows = comparison.table.rows
    for number, row in enumerate(rows):
        data = next(controls) if row.control else comparison.runs[number].data
        reference = rows[len(runs) + data_sets.index(data)].values["memorized"]
        look = signs.Look.of_control() if row.control else signs.Look.of_run(number)
        value, low, high = (row.values[key] or 0.0 for key in ("memorized", "memorized_low", "memorized_high"))
        views.append(
            RowView(
                row,
                signs.key(look, "dashed" if row.control else "solid"),
                "" if row.control else runs[number].anchor,
                signs.whisker(value, low, high, look, reference=reference, limit=limit),
            )
        )
    return views


def _parts(comparison: Comparison) -> list[Part]:
    """Parts of the table that have any figure."""
    table = comparison.table
    parts: dict[str, list[Column]] = {}
    for column in table.columns:
        if column.shown and any(row.values.get(column.key) is not None for row in table.rows):
            parts.setdefault(column.part, []).append(column)
    standing = {column.key: table.standing(column) for column in table.columns}
    return [
        Part(title, f"table-{place}", columns, _groups(columns), standing)
        for place, (title, columns) in enumerate(parts.items())
    ]


def _groups(columns: Sequence[Column]) -> list[tuple[str, list[Column]]]:
    """Neighboring columns under one heading; a column without one stands alone."""
    groups: list[tuple[str, list[Column]]] = []
    for column in columns:
        if groups and column.group and groups[-1][0] == column.group:
            groups[-1][1].append(column)
        else:
            groups.append((column.group, [column]))
    return groups


def _common_seeds(runs: Sequence[MeasuredRun]) -> list[int]:
    common = set.intersection(*(set(measured.run.samples.seeds.tolist()) for measured in runs))
    return [seed for seed in runs[0].run.samples.seeds.tolist() if seed in common]


def _blocks(comparison: Comparison, num_seeds: int, side: int) -> list[Block]:
    """The first seeds that all runs share; where they share none, the first samples of each."""
    common = _common_seeds(comparison.runs)[:num_seeds]
    columns = []  # one list of cells per run
    for measured in comparison.runs:
        samples = measured.run.samples
        place = {seed: row for row, seed in enumerate(samples.seeds.tolist())}
        rows = [place[seed] for seed in common] if common else list(range(min(num_seeds, len(samples.images))))
        ratios = measured.pixels.ratio.cpu()[rows].tolist()
        seeds = samples.seeds[rows].tolist()
        sources = data_uris(samples.images[torch.tensor(rows)], side)
        columns.append(
            [
                Cell(source, grade(ratio), f"{measured.run.name}, seed {seed}, ratio {ratio:.2f}")
                for source, ratio, seed in zip(sources, ratios, seeds, strict=True)
            ]
        )
    width = min(map(len, columns))
    seeds = common or list(range(1, width + 1))
    return [
        Block(
            tuple(seeds[start : start + SEEDS_PER_BLOCK]),
            tuple(tuple(cells[start : min(width, start + SEEDS_PER_BLOCK)]) for cells in columns),
        )
        for start in range(0, width, SEEDS_PER_BLOCK)
    ]
