"""The charts of a comparison: every run in one color and marker throughout."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from markupsafe import Markup
from torch import Tensor

from smoothscore.functional import MemorizationReport
from smoothscore.report.charts import Axis, Line, Points, chart, thin
from smoothscore.report.compare import Comparison
from smoothscore.report.frontier import frontier_chart
from smoothscore.report.measure import MeasuredRun
from smoothscore.report.runs import Curve, Run
from smoothscore.report.signs import Look
from smoothscore.report.table import expansion_sigmas

THRESHOLD_MARKS = ((1 / 3, "1/3"), (2 / 3, "2/3"))


@dataclass(frozen=True)
class Figure:
    """A chart with its words.

    Attributes:
        title: what is shown.
        caption: how to read it.
        svg: the drawing.
    """

    title: str
    caption: str
    svg: Markup


def figures(comparison: Comparison) -> list[Figure]:
    """All charts for which the runs have figures."""
    runs = comparison.runs
    space = comparison.extractor
    drawn = [
        Figure(
            "Memorized against quality",
            f"Lower left is better. Fréchet distance ({space}) to held-out images. Runs that differ only in seeds are "
            "one point; arms: least and largest of them, and the 95 % interval of the share. Lines join settings that "
            "differ only in numbers.",
            frontier_chart(comparison),
        ),
        Figure("Memorized over training", "Share of samples below 2/3; band: 95 % interval.", _memorization(runs)),
        Figure(
            f"Ratio d₁/d₂, {space if space == 'pixels' else 'in pixels'}",
            "Share of samples below each ratio: the higher a curve runs on the left, the more was copied.",
            _ratios([(m.run.name, m.pixels) for m in runs]),
        ),
        Figure(
            f"Ratio d₁/d₂, in features ({space})",
            "The same among features: copies that moved or changed color show here.",
            _ratios([(m.run.name, m.features) for m in runs]) if space != "pixels" else Markup(),
        ),
        Figure("Loss", "Thin: training. Thick, marked: held-out images.", _loss(runs)),
        Figure(
            f"Fréchet distance ({space}) over training",
            "Solid: to training images. Dashed: to held-out images.",
            _frechet(runs, space),
        ),
        Figure(
            "Expansion ratio",
            "Distance of two close points after one step, over that before. Solid: network. Dashed: exact score.",
            _expansion(runs),
        ),
    ]
    return [figure for figure in drawn if figure.svg]


def steps(value: float) -> str:
    """A number of steps, short: 1200 is 1.2k."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def percent(value: float) -> str:
    """A share as a whole per cent where it is one."""
    return f"{100 * value:g} %"


def _points(curve: Curve | None) -> Points:
    return list(zip(*curve, strict=True)) if curve else []


def _loss(runs: Sequence[MeasuredRun]) -> Markup:
    lines = []
    for number, measured in enumerate(runs):
        look, curves = Look.of_run(number), measured.run.curves
        lines.append(Line(f"{measured.run.name}, training", thin(_points(curves.get("train/loss"))), look, "faint"))
        lines.append(Line(measured.run.name, _points(curves.get("val/loss")), look, marked=True))
    values = [y for line in lines for _, y in line.points if y > 0]
    log = bool(values) and max(values) > 10 * min(values)
    return chart("Loss against step", lines, Axis("step", text=steps), Axis("loss", log=log))


def _memorization(runs: Sequence[MeasuredRun]) -> Markup:
    lines = []
    for number, measured in enumerate(runs):
        curve, low, high = (measured.run.curves.get(f"memorization/{name}") for name in ("fraction", "low", "high"))
        band = list(zip(curve.step, low.value, high.value, strict=False)) if curve and low and high else []
        lines.append(Line(measured.run.name, _points(curve), Look.of_run(number), marked=True, band=band))
    marks: tuple[tuple[float, str], ...] = ()
    control = runs[0].pixels.control
    if control is not None and len({measured.data for measured in runs}) == 1:
        marks = ((control.fraction, "held-out images"),)
    y = Axis("memorized", text=percent, zero=True, marks=marks)
    return chart("Memorized fraction against step", lines, Axis("step", text=steps), y)


def _frechet(runs: Sequence[MeasuredRun], extractor: str) -> Markup:
    lines = []
    for number, measured in enumerate(runs):
        for side, style in (("train", "solid"), ("test", "dashed")):
            points = _points(measured.run.curves.get(f"frechet/{side}_{extractor}"))
            lines.append(Line(f"{measured.run.name}, to {side}", points, Look.of_run(number), style, marked=True))
    title = f"Fréchet distance ({extractor}) against step"
    return chart(title, lines, Axis("step", text=steps), Axis("distance", zero=True))


def _expansion(runs: Sequence[MeasuredRun]) -> Markup:
    lines = []
    for number, measured in enumerate(runs):
        for kind, style in (("exact", "dashed"), ("network", "solid")):
            points = _by_sigma(measured.run, kind)
            name = f"{measured.run.name}, {kind}"
            lines.append(Line(name, points, Look.of_run(number), style, marked=kind == "network"))
    values = [y for line in lines for _, y in line.points]
    log = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    y = Axis("ratio", log=log, zero=True)
    return chart("Expansion ratio against noise level", lines, Axis("noise level σ", log=True), y)


def _by_sigma(run: Run, kind: str) -> Points:
    figures = [(float(sigma), run.last(f"expansion/{kind}_{sigma}")) for sigma in expansion_sigmas(list(run.curves))]
    return [(sigma, value) for sigma, value in figures if value is not None]


def _ratios(reports: Sequence[tuple[str, MemorizationReport]]) -> Markup:
    lines = [Line(name, _shares(report.ratio), Look.of_run(number)) for number, (name, report) in enumerate(reports)]
    controls = {id(report.control): report.control for _, report in reports if report.control is not None}
    held_out = [
        Line("held-out images", _shares(control.ratio), Look.of_control(), "dashed") for control in controls.values()
    ]
    x = Axis("ratio d₁/d₂", limits=(0, 1), marks=THRESHOLD_MARKS)
    return chart("Share of samples below a ratio", [*held_out, *lines], x, Axis("share", limits=(0, 1), text=percent))


def _shares(ratio: Tensor, most: int = 200) -> Points:
    """The empirical distribution function, at no more than `most` of its steps."""
    ordered = ratio.double().cpu().sort().values
    count = len(ordered)
    places = torch.linspace(0, count - 1, min(count, most)).round().long()
    values = zip(ordered[places].tolist(), ((places + 1) / count).tolist(), strict=True)
    return [(0.0, 0.0), *values, (1.0, 1.0)]
