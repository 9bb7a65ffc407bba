"""The table of a comparison: which figures it holds, and how it is printed and written."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError


@dataclass(frozen=True)
class Column:
    """One figure of every row.

    Attributes:
        key: name in table.csv and table.json; with an interval, `key_low` and `key_high` are its ends.
        title: heading.
        group: heading above neighboring columns that belong together.
        style: how the figure is written for people; files hold plain numbers.
        interval: whether the figure has a 95 % interval.
        shown: whether people see it; files hold every column.
        part: heading of the part of the page that it stands in.
        better: which direction is good; empty where neither is.
        about: what it is, for people who have not met it.
        drawn: whether the page draws the interval.
    """

    key: str
    title: str
    group: str = ""
    style: Literal["percent", "points", "ratio", "number", "tenths", "integer", "milliseconds"] = "number"
    interval: bool = False
    shown: bool = True
    part: str = ""
    better: Literal["low", "high", ""] = ""
    about: str = ""
    drawn: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The figure's key, and those of the ends of its interval."""
        return (self.key, f"{self.key}_low", f"{self.key}_high") if self.interval else (self.key,)

    def text(self, values: Mapping[str, float | None]) -> str:
        """The figure as people read it; a dash where there is none."""
        value = values.get(self.key)
        return "–" if value is None else format_value(value, self.style)

    def interval_text(self, values: Mapping[str, float | None]) -> str:
        """Its interval, such as "31.2–44.9"; empty where there is none."""
        low, high = values.get(f"{self.key}_low"), values.get(f"{self.key}_high")
        if not self.interval or low is None or high is None:
            return ""
        ends = [format_value(end, self.style).removesuffix(" %") for end in (low, high)]
        return (" to " if any(end[0] in "−+" for end in ends) else "–").join(ends)


@dataclass(frozen=True)
class Row:
    """Figures of one run, or of a control.

    Attributes:
        name: of the run, unique in the table.
        values: figures by column key; a missing one is blank.
        control: whether these are real held-out images and not a run.
    """

    name: str
    values: Mapping[str, float | None]
    control: bool = False


@dataclass(frozen=True)
class Table:
    """Rows under columns, with what a reader has to know before comparing them.

    Attributes:
        columns: in order.
        rows: runs in the order they were given, controls last.
        notes: sentences that qualify the figures.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def standing(self, column: Column) -> dict[str, str]:
        """Which runs are "best" in a column, and which "tie" with it, by name; empty with one run or no direction.

        A run ties with the best where their difference lies inside its interval, by Newcombe's rule: with half-widths
        a and b of the two intervals toward each other, |difference| ≤ √(a² + b²). Figures without an interval tie only
        where they are equal. Controls are no runs.

        Source: Newcombe 1998, method 10.
        """
        figures = {row.name: row.values.get(column.key) for row in self.rows if not row.control}
        known = {name: value for name, value in figures.items() if value is not None and math.isfinite(value)}
        if not column.better or len(known) < 2:
            return {}
        sign = 1 if column.better == "low" else -1
        best = min(known, key=lambda name: sign * known[name])
        rows = {row.name: row.values for row in self.rows if not row.control}
        near, far = ("high", "low") if sign > 0 else ("low", "high")
        found = {best: "best"}
        for name, value in known.items():
            gap = abs(value - known[best])
            widths = [
                (rows[of].get(f"{column.key}_{end}"), known[of])
                for of, end in ((best, near), (name, far))
                if column.interval
            ]
            margin = math.hypot(*(abs(end - own) for end, own in widths if end is not None))
            if name != best and gap <= margin:
                found[name] = "tie"
        return found

    def sorted_by(self, key: str) -> "Table":
        """The same table with its runs sorted by a column, the best first; runs without the figure last, then controls.

        Raises:
            UserError: no such column.
        """
        column = next((column for column in self.columns if column.key == key), None)
        if column is None:
            raise UserError(
                f"There is no column {key}: choose among {', '.join(column.key for column in self.columns)}."
            )
        sign = -1 if column.better == "high" else 1

        def place(row: Row) -> tuple[bool, bool, float]:
            value = row.values.get(key)
            missing = value is None or math.isnan(value)
            return row.control, missing, 0.0 if value is None or missing else sign * value

        return replace(self, rows=tuple(sorted(self.rows, key=place)))

    def write(self, folder: Path) -> None:
        """Write table.csv (one plain number per column) and table.json (the same with titles and notes)."""
        keys = [key for column in self.columns for key in column.keys]
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["run", *keys])
        writer.writerows([row.name, *(row.values.get(key) for key in keys)] for row in self.rows)
        write_atomically(folder / "table.csv", text.getvalue().encode())
        content: dict[str, Any] = {
            "columns": [
                {
                    "key": column.key,
                    "title": column.title,
                    "group": column.group,
                    "interval": 0.95 if column.interval else None,
                    "better": column.better or None,
                    "standing": self.standing(column),
                }
                for column in self.columns
            ],
            "rows": [
                {"run": row.name, "control": row.control, **{key: _plain(row.values.get(key)) for key in keys}}
                for row in self.rows
            ],
            "notes": list(self.notes),
        }
        write_atomically(folder / "table.json", (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())

    def print(self, console: Console) -> None:
        """Print it in the terminal, in several parts where all columns do not fit side by side."""
        shown = [_Printed.of(column, self.rows, self.standing(column)) for column in self.columns if column.shown]
        names = [row.name for row in self.rows]
        name_width = max(map(len, names))
        while shown:
            count, room = 0, console.width - name_width - 3  # the box has an edge, and two blanks between columns
            while count < len(shown) and (room := room - shown[count].width - 2) >= 0:
                count += 1
            part, shown = shown[: max(1, count)], shown[max(1, count) :]
            table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
            table.add_column("run", vertical="bottom", no_wrap=True)
            for column in part:
                table.add_column(column.title, justify="right", vertical="bottom", no_wrap=True)
            for number, row in enumerate(self.rows):
                cells = [column.cells[number] for column in part]
                table.add_row(escape(row.name), *cells, style="dim" if row.control else None)
            console.print(table)
        if any(self.standing(column) for column in self.columns):
            console.print("* best in its column, ≈ no different from it within the 95 % intervals", style="dim")
        for note in self.notes:
            console.print(escape(note), style="yellow", highlight=False)


class _Printed(NamedTuple):
    """A column as it is printed."""

    title: str
    cells: list[str]

    @classmethod
    def of(cls, column: Column, rows: Sequence[Row], standing: Mapping[str, str]) -> "_Printed":
        title = "\n".join([*column.group.split(), column.title.replace(" (", "\n(").replace("per ", "per\n")])
        signs = {"best": "*", "tie": "≈", "": ""}
        return cls(
            title,
            [
                signs[standing.get(row.name, "") if not row.control else ""]
                + f"{column.text(row.values)} {column.interval_text(row.values)}".strip()
                for row in rows
            ],
        )

    @property
    def width(self) -> int:
        return max(map(len, [*self.title.splitlines(), *self.cells]))


def _plain(value: float | None) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if value is not None and math.isfinite(value) else None


def format_value(value: float, style: str) -> str:
    """A figure with as many digits as mean something."""
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{value:+}"
    if style == "percent":
        return f"{100 * value:.1f} %".replace("-", "−")
    if style == "points":
        return f"{100 * value:+.1f}".replace("-", "−")
    if style == "ratio":
        return f"{value:.3f}"
    if style == "tenths":
        return f"{value:,.1f}".replace("-", "−")
    if style == "integer":
        return f"{value:.0f}"
    if style == "milliseconds":
        return f"{value:.1f}" if value < 100 else f"{value:.0f}"
    if value and not 0.01 <= abs(value) < 1e6:
        return f"{value:.2e}".replace("-", "−")
    digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def expansion_sigmas(names: Sequence[str]) -> list[str]:
    """Noise levels, ascending, as they stand in logged names such as expansion/network_0.1."""
    prefix = "expansion/network_"
    return sorted({name.removeprefix(prefix) for name in names if name.startswith(prefix)}, key=float)
