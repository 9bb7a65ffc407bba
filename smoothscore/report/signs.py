"""How a run looks: its color and its marker, the same in the table, in legends and in every chart."""

from dataclasses import dataclass

from markupsafe import Markup

COLORS = 7  # classes run-0 … run-6 in report.css
MARKERS = 4


@dataclass(frozen=True)
class Look:
    """How one run looks in every chart: a color and a marker, so that neither color nor shape alone must tell."""

    css: str
    marker: int

    @classmethod
    def of_run(cls, number: int) -> "Look":
        """Colors repeat after seven runs, markers after four, both together after 28."""
        return cls(f"run-{number % COLORS}", number % MARKERS)

    @classmethod
    def of_control(cls) -> "Look":
        """Held-out images: the color of text, no marker."""
        return cls("control", -1)


def whisker(value: float, low: float, high: float, look: Look, *, reference: float | None, limit: float) -> Markup:
    """A dot at `value` between whiskers, on a scale from 0 to `limit`; a thin line where the reference lies."""
    width, height, pad = 200, 22, 6

    def at(position: float) -> str:
        return f"{pad + (width - 2 * pad) * position / limit:.1f}"

    parts = [Markup('<path class="axis" d="M{} 11H{}"/>').format(at(0), at(limit))]
    if reference is not None:
        parts.append(Markup('<path class="reference" d="M{} 1V21"/>').format(at(reference)))
    parts.append(
        Markup('<g class="series {}"><path class="whisker" d="M{} 11H{}M{} 6v10M{} 6v10"/>{}</g>').format(
            look.css, at(low), at(high), at(low), at(high), marker(float(at(value)), 11, max(look.marker, 0), 4.5)
        )
    )
    return Markup('<svg class="whisker-plot" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>').format(
        width, height, Markup("").join(parts)
    )


def key(look: Look, style: str = "solid") -> Markup:
    """The sign of a run in a legend: a piece of its line with its marker."""
    line = Markup('<g class="series {} {}"><path d="M1 7H25"/>{}</g>')
    return Markup('<svg class="key" viewBox="0 0 26 14" aria-hidden="true">{}</svg>').format(
        line.format(look.css, style, marker(13, 7, look.marker, 4))
    )


def nice_limit(value: float) -> float:
    """The smallest of 0.05, 0.1, 0.2, 0.25, 0.5, 0.75 and 1 that is not below a fraction."""
    return next((limit for limit in (0.05, 0.1, 0.2, 0.25, 0.5, 0.75) if value <= limit), 1.0)


def marker(x: float, y: float, shape: int, r: float) -> Markup:
    """Circle, square, triangle or diamond at a place; nothing for a negative shape."""
    if shape < 0:
        return Markup()
    if shape == 0:
        return Markup('<circle class="marker" cx="{:.1f}" cy="{:.1f}" r="{}"/>').format(x, y, r)
    if shape == 1:
        path = f"M{x - r:.1f} {y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}Z"
    elif shape == 2:
        path = f"M{x:.1f} {y - 1.3 * r:.1f}l{1.3 * r:.1f} {2.3 * r:.1f}h{-2.6 * r:.1f}Z"
    else:
        side = f"{1.4 * r:.1f}"
        path = f"M{x:.1f} {y - 1.4 * r:.1f}l{side} {side}l-{side} {side}l-{side} -{side}Z"
    return Markup('<path class="marker" d="{}"/>').format(path)
