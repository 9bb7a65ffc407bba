"""The look of every figure, and figures as files."""

import io
from contextlib import _GeneratorContextManager
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.figure import Figure

COLUMN_WIDTH = 3.4  # inches, one column of a paper

_STYLE = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]),
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "axes.formatter.use_mathtext": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "smoothscore",
}


def paper_style() -> _GeneratorContextManager[None]:
    """The look of every figure; a context, or a decorator of the function that draws."""
    return mpl.rc_context(_STYLE)  # type: ignore[no-any-return]


def new_figure(
    columns: int = 1, rows: int = 1, *, height: float = 2.4, width: float | None = None
) -> tuple[Figure, Any]:
    """A figure for a paper and its axes, an array [rows, columns].

    Args:
        columns: panels beside each other.
        rows: panels below each other.
        height: of a row, in inches.
        width: of the figure in inches; two columns of a paper at most by default.
    """
    with paper_style():
        figure = Figure(figsize=(width or COLUMN_WIDTH * min(columns, 2), height * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)


def rendered(figure: Figure) -> dict[str, bytes]:
    """A figure as the contents of files by suffix: png, at 200 dots per inch, and svg, equal for equal figures."""
    contents = {}
    for suffix, options in (("png", {"dpi": 200}), ("svg", {"metadata": {"Date": None}})):
        buffer = io.BytesIO()
        with paper_style():
            figure.savefig(buffer, format=suffix, **options)
        contents[suffix] = buffer.getvalue()
    return contents
