"""What less memorization costs: the memorized share of settings against their Fréchet distance to held-out images."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from markupsafe import Markup
from matplotlib.figure import Figure

from smoothscore.data.samples import write_atomically
from smoothscore.figures import new_figure, paper_style, rendered
from smoothscore.functional.intervals import fraction_interval
from smoothscore.report.charts import Axis, Cross, Line, chart
from smoothscore.report.compare import Comparison
from smoothscore.report.differences import settings
from smoothscore.report.measure import MeasuredRun
from smoothscore.report.runs import Run
from smoothscore.report.signs import Look

_SEED = re.compile(r"(^|\.)seed(_everything)?$")
_NUMBER = re.compile(r"\d+(\.\d+)?")


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but their seeds.

    Attributes:
        name: what their names have in common.
        family: settings of one family differ in numbers only, and are joined by a line.
        runs: names of the runs.
        memorized: share of all their samples below d₁/d₂ = 2/3.
        interval: of it, 95 %, over samples.
        memorized_range: least and largest share of a run.
        distance: mean Fréchet distance to held-out images.
        distance_range: least and largest of a run.
    """

    name: str
    family: str
    runs: tuple[str, ...]
    memorized: float
    interval: tuple[float, float]
    memorized_range: tuple[float, float]
    distance: float
    distance_range: tuple[float, float]


def frontier(comparison: Comparison) -> list[Setting]:
    """The settings of a comparison, runs that differ only in seeds taken together, families in order of their numbers.

    Args:
        comparison: runs on one data set, or on several that are then mixed in one picture.

    Returns:
        One `Setting` per group of runs.
    """
    groups: dict[tuple[tuple[str, str], ...], list[MeasuredRun]] = {}
    for measured in comparison.runs:
        key = tuple(sorted((k, v) for k, v in settings(measured.run).items() if not _SEED.search(k)))
        groups.setdefault(key, []).append(measured)
    differing = _differing([dict(key) for key in groups])
    found: dict[str, list[tuple[list[float], Setting]]] = {}
    names = {key: _common_name([measured.run for measured in runs]) for key, runs in groups.items()}
    labels: dict[tuple[str, ...], str] = {}
    for key, runs in groups.items():
        values = dict(key)
        numbers = [float(values[name]) for name in differing if _is_number(values.get(name))]
        words = tuple(f"{name}={'#' if _is_number(values.get(name)) else values.get(name)}" for name in differing)
        family = labels.setdefault(words, _NUMBER.sub("…", names[key]))
        found.setdefault(family, []).append((numbers, _setting(names[key], family, runs, comparison.extractor)))
    return [setting for family in found.values() for _, setting in sorted(family, key=lambda pair: pair[0])]


def write_frontier(comparison: Comparison, folder: Path) -> list[Path]:
    """Write frontier.csv, frontier.png and frontier.svg; nothing for a single run.

    Returns:
        The files.
    """
    found = frontier(comparison)
    if len(found) < 2:
        return []
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    ends = ("low", "high")
    writer.writerow(["setting", "family", "runs", "memorized", *(f"memorized_{end}" for end in ends),
                     "memorized_least_run", "memorized_largest_run", f"frechet_test_{comparison.extractor}",
                     "frechet_test_least_run", "frechet_test_largest_run"])  # fmt: skip
    for s in found:
        row = [s.name, s.family, len(s.runs), s.memorized, *s.interval, *s.memorized_range, s.distance]
        writer.writerow([*row, *s.distance_range])
    contents = {"csv": text.getvalue().encode(), **rendered(_figure(found, comparison))}
    files = [folder / f"frontier.{suffix}" for suffix in contents]
    for path, content in zip(files, contents.values(), strict=True):
        write_atomically(path, content)
    return files


def frontier_chart(comparison: Comparison) -> Markup:
    """The same as inline SVG; empty for a single setting."""
    found = frontier(comparison)
    if len(found) < 2:
        return Markup()
    looks = {measured.run.name: Look.of_run(number) for number, measured in enumerate(comparison.runs)}
    lines = []
    for family, members in _families(found).items():
        points = [(s.distance, s.memorized) for s in members]
        crosses = [Cross(s.name, (s.distance, s.memorized), s.distance_range, s.interval, looks[s.runs[0]])
                   for s in members]  # fmt: skip
        lines.append(Line(family, points, Look.of_control(), "faint", crosses=crosses))
    control = _control(comparison)
    y = Axis("memorized", zero=True, text=lambda v: f"{100 * v:g} %",
             marks=() if control is None else ((control, "held-out images"),))  # fmt: skip
    return chart("Memorized share against Fréchet distance to held-out images", lines, Axis("Fréchet distance"), y)


def _families(found: Sequence[Setting]) -> dict[str, list[Setting]]:
    families: dict[str, list[Setting]] = {}
    for setting in found:
        families.setdefault(setting.family, []).append(setting)
    return families


def _control(comparison: Comparison) -> float | None:
    control = comparison.runs[0].pixels.control
    return None if control is None or len(comparison.data_sets) > 1 else control.fraction


def _setting(name: str, family: str, runs: Sequence[MeasuredRun], extractor: str) -> Setting:
    counts = [int((measured.pixels.ratio < 2 / 3).sum()) for measured in runs]
    totals = [len(measured.pixels.ratio) for measured in runs]
    shares = [measured.pixels.fraction for measured in runs]
    distances = [measured.figures[f"frechet/test_{extractor}"] for measured in runs]
    return Setting(
        name,
        family,
        tuple(measured.run.name for measured in runs),
        sum(counts) / sum(totals),
        fraction_interval(sum(counts), sum(totals)),
        (min(shares), max(shares)),
        float(torch.tensor(distances, dtype=torch.float64).mean()),
        (min(distances), max(distances)),
    )


def _differing(groups: Sequence[Mapping[str, str]]) -> list[str]:
    names = dict.fromkeys(name for group in groups for name in group)
    return [name for name in names if len({group.get(name) for group in groups}) > 1]


def _is_number(value: str | None) -> bool:
    return value is not None and re.fullmatch(r"[-+]?\d*\.?\d+([eE][-+]?\d+)?", value) is not None


def _common_name(runs: Sequence[Run]) -> str:
    """What the names of runs begin with alike, without what is left of a seed."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*(run.name for run in runs), strict=False))
    prefix = "".join(letters[0] for letters in alike)
    seed = r"[-_/. ]*(seed|s)?[-_]?\d*$" if len(runs) > 1 else r"[-_/. ]+seed[-_]?\d+$"
    return re.sub(seed, "", prefix) or runs[0].name


@paper_style()
def _figure(found: Sequence[Setting], comparison: Comparison) -> Figure:
    figure, axes = new_figure(width=6.8, height=3.6)
    axis = axes[0, 0]
    for number, (family, members) in enumerate(_families(found).items()):
        x, y = [s.distance for s in members], [100 * s.memorized for s in members]
        spread = [
            [s.distance - s.distance_range[0] for s in members],
            [s.distance_range[1] - s.distance for s in members],
        ]
        above = [
            [100 * (s.memorized - s.interval[0]) for s in members],
            [100 * (s.interval[1] - s.memorized) for s in members],
        ]
        axis.errorbar(x, y, xerr=spread, yerr=above, marker="os^Dv"[number % 5], linewidth=0.9, elinewidth=0.5,
                      markersize=4, label=family, color=f"C{number % 7}")  # fmt: skip
        for setting in members if len(members) > 1 else ():
            told = "/".join(n.group() for n in _NUMBER.finditer(setting.name))
            axis.annotate(
                told, (setting.distance, 100 * setting.memorized), (3, 3), textcoords="offset points", fontsize=6
            )
    control = _control(comparison)
    if control is not None:
        axis.axhline(100 * control, color="0.5", linestyle="--", linewidth=0.8, label="held-out images")
    axis.set(xlabel=f"Fréchet distance to held-out images ({comparison.extractor})", ylabel="memorized, %")
    axis.set_ylim(bottom=0)
    figure.legend(loc="outside right upper")
    return figure
