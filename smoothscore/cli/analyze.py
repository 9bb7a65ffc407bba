"""`smoothscore analyze NAME`: one numerical experiment, as a table, a figure and a summary."""

import inspect
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import smoothscore.data
import smoothscore.neighbors  # noqa: F401  # both imported, so that class_path takes short names
from smoothscore.cli.help import OwnExtractors
from smoothscore.cli.inputs import open_folder
from smoothscore.experiments import EXPERIMENTS, Result

_MOST_ROWS = 40  # in the terminal; the files hold all


def run(name: str, args: Sequence[str]) -> None:
    """Run one experiment and write NAME.json, NAME.csv, NAME.png and NAME.svg."""
    parser = _parser(name)
    parsed = parser.parse_args(list(args))
    experiment = parsed.subcommand
    options = parser.instantiate(parsed)[experiment]
    out = open_folder(options.pop("out"))
    options.pop("config", None)
    result = EXPERIMENTS[experiment](**options.as_dict())
    files = result.write(out, options=_plain(parsed[experiment]))
    _print(result)
    print(result.summary)
    print("\n".join(str(file) for file in files))


def _plain(options: Namespace) -> dict[str, object]:
    return {key: value for key, value in options.as_dict().items() if key not in ("out", "config")}


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}",
        description="The numerical experiments of arXiv 2601.19285, on any data set and without training. Each writes "
        "NAME.json and NAME.csv (the table), NAME.png and NAME.svg (a figure for a paper).",
        formatter_class=_Formatter,  # subcommands take their parent's
    )
    commands = parser.add_subcommands(title="experiments", description="smoothscore analyze NAME --help: its options")
    for key, experiment in EXPERIMENTS.items():
        description = (inspect.getdoc(experiment) or "").partition("\n\nArgs:")[0]
        summary = description.splitlines()[0]
        command = ArgumentParser(description=description)
        command.add_argument("--config", action="config", help="options from a YAML file")
        command.add_argument("--out", type=str, default="runs/analyze", help="folder of the files")
        command.add_function_arguments(experiment, as_positional=True)
        commands.add_subcommand(key, command, help=summary)
    return parser


class _Formatter(OwnExtractors, RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a description too."""


def _print(result: Result) -> None:
    table = Table(title=result.name)
    for column in result.rows[0]:
        table.add_column(column, justify="right")
    for row in result.rows[:_MOST_ROWS]:
        table.add_row(*(_cell(value) for value in row.values()))
    console = Console()
    (console if console.is_terminal else Console(width=160)).print(table)
    if len(result.rows) > _MOST_ROWS:
        print(f"({len(result.rows) - _MOST_ROWS} more rows in the files)")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
