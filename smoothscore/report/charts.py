"""Line charts as inline SVG, small and without a script; colors, those of a dark page too, come from the page's CSS."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from markupsafe import Markup

from smoothscore.report.signs import Look, marker

WIDTH, HEIGHT = 372, 252
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 42
_MOST_POINTS = 150

Points = Sequence[tuple[float, float]]


class Cross(NamedTuple):
    """A point of a line with a name and a look of its own, and how far off it may be both ways."""

    name: str
    point: tuple[float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    look: Look


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: what a pointer shows and what the description says.
        points: (x, y), ascending in x; NaN interrupts the line.
        look: of the run it belongs to.
        style: "solid", "dashed" or "faint".
        marked: put markers on the points.
        band: (x, low, high), an interval drawn behind the line.
        crosses: points with intervals, each in a look of its own.
    """

    name: str
    points: Points
    look: Look
    style: str = "solid"
    marked: bool = False
    band: Sequence[tuple[float, float, float]] = ()
    crosses: Sequence[Cross] = ()


@dataclass(frozen=True)
class Axis:
    """One axis: linear or logarithmic, with limits that are given or taken from the data.

    Attributes:
        label: what it shows.
        log: logarithmic.
        limits: fixed ends.
        text: how a tick is written.
        marks: values with a thin line across the chart and a label.
        zero: begin a linear axis at 0.
    """

    label: str
    log: bool = False
    limits: tuple[float, float] | None = None
    text: Callable[[float], str] = field(default=lambda value: f"{value:g}")
    marks: Sequence[tuple[float, str]] = ()
    zero: bool = False


def chart(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> Markup:
    """Draw lines in one chart; an empty `Markup` where there is nothing to draw."""
    shown = [line for line in lines if _finite(line.points, x, y)]
    if not shown:
        return Markup()
    points = [point for line in shown for point in _finite(line.points, x, y)]
    ends = [(px, end) for line in shown for px, *band in line.band for end in band if _fits((px, end), x, y)]
    corners = [corner for line in shown for cross in line.crosses for corner in zip(cross.x, cross.y, strict=True)]
    ends += corners
    to_x = _Scale.of(x, [*(px for px, _ in [*points, *corners]), *(mark for mark, _ in x.marks)], LEFT, WIDTH - RIGHT)
    to_y = _Scale.of(y, [*(py for _, py in [*points, *ends]), *(mark for mark, _ in y.marks)], HEIGHT - BOTTOM, TOP)
    parts = [_grid(x, to_x, y, to_y)]
    parts += [_draw(line, x, y, to_x, to_y) for line in shown]
    description = "; ".join(
        f"{line.name}: {_round(_finite(line.points, x, y)[-1][1])} at the end"
        for line in shown
        if line.style != "faint"
    )
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}. {}.">{}</svg>').format(
        WIDTH, HEIGHT, title, description, Markup("").join(parts)
    )


def thin(points: Points, most: int = _MOST_POINTS) -> list[tuple[float, float]]:
    """Means of equally many neighboring points, where there are more points than a chart can show."""
    size = -(-len(points) // most)
    groups = [points[start : start + size] for start in range(0, len(points), max(1, size))]
    return [(sum(p[0] for p in group) / len(group), sum(p[1] for p in group) / len(group)) for group in groups]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool

    @classmethod
    def of(cls, axis: Axis, values: Sequence[float], start: float, end: float) -> "_Scale":
        low, high = axis.limits or (min(values), max(values))
        if axis.log:
            low, high = math.log10(low), math.log10(high)
        if axis.limits is None:
            if axis.zero and not axis.log:
                low = min(low, 0.0)
            if high - low < 1e-9 * max(1.0, abs(high)):
                low, high = low - (0 if axis.zero else 0.5), high + 0.5
            elif not axis.zero or axis.log:
                low, high = low - 0.04 * (high - low), high + 0.04 * (high - low)
            else:
                high += 0.06 * (high - low)
        return cls(low, high, start, end, axis.log)

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.log:
            step = _nice_step((self.high - self.low) / 5)
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            return [round(number * step, 12) for number in range(first, last + 1)]
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        for steps in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
            ticks = [step * 10.0**decade for decade in decades for step in steps]
            ticks = [tick for tick in ticks if self.low <= math.log10(tick) + 1e-9 and math.log10(tick) <= self.high]
            if len(ticks) >= 3:
                break
        return ticks[:: -(-len(ticks) // 7)] if ticks else [10.0 ** ((self.low + self.high) / 2)]


def _grid(x: Axis, to_x: _Scale, y: Axis, to_y: _Scale) -> Markup:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for tick in to_y.ticks():
        at = f"{to_y(tick):.1f}"
        parts.append(Markup('<path class="grid" d="M{} {}H{}"/>').format(LEFT, at, right))
        parts.append(Markup('<text x="{}" y="{}" dy=".35em" class="end">{}</text>').format(LEFT - 7, at, y.text(tick)))
    for tick in to_x.ticks():
        at = f"{to_x(tick):.1f}"
        parts.append(Markup('<path class="axis" d="M{} {}v4"/>').format(at, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="mid">{}</text>').format(at, bottom + 17, x.text(tick)))
    for mark, label in x.marks:
        at = f"{to_x(mark):.1f}"
        parts.append(Markup('<path class="mark" d="M{} {}V{}"/>').format(at, TOP, bottom))
        parts.append(Markup('<text x="{}" y="{}" class="end mark">{}</text>').format(float(at) - 4, TOP + 10, label))
    for mark, label in y.marks:
        at = f"{to_y(mark):.1f}"
        parts.append(Markup('<path class="mark" d="M{} {}H{}"/>').format(LEFT, at, right))
        parts.append(Markup('<text x="{}" y="{}" class="end mark">{}</text>').format(right, float(at) - 5, label))
    parts.append(Markup('<path class="axis" d="M{} {}H{}"/>').format(LEFT, bottom, right))
    parts.append(
        Markup('<text x="{}" y="{}" class="mid label">{}</text>').format((LEFT + right) / 2, HEIGHT - 6, x.label)
    )
    return Markup("").join(parts)


def _draw(line: Line, x: Axis, y: Axis, to_x: _Scale, to_y: _Scale) -> Markup:
    path, pen_up, marks = [], True, []
    for px, py in line.points:
        if not _fits((px, py), x, y):
            pen_up = True
            continue
        at_x, at_y = to_x(px), to_y(py)
        path.append(f"{'M' if pen_up else 'L'}{at_x:.1f} {at_y:.1f}")
        pen_up = False
        if line.marked:
            marks.append(
                Markup("<g><title>{}: {} at {}</title>{}</g>").format(
                    line.name, _round(py), x.text(px), marker(at_x, at_y, line.look.marker, 3.2)
                )
            )
    parts = [Markup("<title>{}</title>").format(line.name)]
    band = [(px, low, high) for px, low, high in line.band if _fits((px, low), x, y) and _fits((px, high), x, y)]
    if len(band) > 1:
        edge = [f"{to_x(px):.1f} {to_y(high):.1f}" for px, _, high in band]
        edge += [f"{to_x(px):.1f} {to_y(low):.1f}" for px, low, _ in reversed(band)]
        parts.append(Markup('<path class="band" d="M{}Z"/>').format("L".join(edge)))
    parts.append(Markup('<path d="{}"/>').format("".join(path)))
    drawn = Markup('<g class="series {} {}">{}</g>').format(line.look.css, line.style, Markup("").join(parts + marks))
    return Markup("").join([drawn, *(_cross(cross, x, to_x, to_y) for cross in line.crosses)])


def _cross(cross: Cross, x: Axis, to_x: _Scale, to_y: _Scale) -> Markup:
    at_x, at_y = to_x(cross.point[0]), to_y(cross.point[1])
    (left, right), (low, high) = [[f"{to(end):.1f}" for end in ends] for to, ends in ((to_x, cross.x), (to_y, cross.y))]
    arms = f"M{left} {at_y:.1f}H{right}M{at_x:.1f} {low}V{high}"
    return Markup('<g class="series {}"><title>{}: {} at {}</title><path class="arms" d="{}"/>{}</g>').format(
        cross.look.css,
        cross.name,
        _round(cross.point[1]),
        x.text(cross.point[0]),
        arms,
        marker(at_x, at_y, cross.look.marker, 3.2),
    )


def _nice_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if step <= nice * power * (1 + 1e-9))


def _fits(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return all(math.isfinite(value) and (value > 0 or not axis.log) for value, axis in zip(point, (x, y), strict=True))


def _finite(points: Points, x: Axis, y: Axis) -> list[tuple[float, float]]:
    return [point for point in points if _fits(point, x, y)]


def _round(value: float) -> str:
    return f"{value:.3g}"
