"""`smoothscore compare RUN…`: a table of several runs in the terminal and as files, and one page to look at."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser
from rich.console import Console
from torch import nn

import smoothscore.neighbors  # noqa: F401  # imported, so that --extractor takes short names
from smoothscore.cli.help import OwnExtractors
from smoothscore.cli.inputs import open_device, open_folder
from smoothscore.errors import UserError
from smoothscore.report import compare_runs, write_frontier, write_page


def run(name: str, args: Sequence[str]) -> None:
    """Measure the samples of runs, print the table, write it, the frontier, and report.html."""
    options = _parser(name).parse_args(list(args))
    options = _parser(name).instantiate(options)
    for option in ("seeds", "pairs"):
        if options[option] < 1:
            raise UserError(f"--{option} is {options[option]}, but at least one has to be shown.")
    out = open_folder(options.out)
    comparison = compare_runs(
        [Path(folder) for folder in options.runs],
        extractor=options.extractor,
        device=open_device(options.device),
        sort=options.sort,
    )
    console = Console()
    # Without a terminal there is no width to keep to, and lines that break are hard to read in a log.
    comparison.table.print(console if console.is_terminal else Console(width=140))
    comparison.table.write(out)
    drawn = write_frontier(comparison, out)
    write_page(comparison, out / "report.html", num_seeds=options.seeds, num_pairs=options.pairs)
    print(
        ", ".join(str(path) for path in (out / "table.csv", out / "table.json", *drawn)), out / "report.html", sep="\n"
    )


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}",
        formatter_class=OwnExtractors,
        description="Measure the samples of several runs alike and set them side by side, with held-out images as "
        "control. Each run folder holds config.yaml, metrics.csv and samples.npz, as `smoothscore fit` leaves it. Runs "
        "that differ only in seeds are one point of the frontier of memorized share against Fréchet distance.",
    )
    parser.add_argument("runs", nargs="*", metavar="RUN", help="run folder")
    parser.add_argument(
        "--out",
        default="compare",
        metavar="DIR",
        help="folder for table.csv, table.json, frontier.{csv,png,svg} and report.html",
    )
    parser.add_argument(
        "--extractor",
        type=nn.Module | None,
        help="measure all runs in these features, for instance Pixels; without it in those of their configurations",
    )
    parser.add_argument(
        "--sort", metavar="COLUMN", help="sort runs by a column of table.csv, the best first (on the page, click)"
    )
    parser.add_argument("--seeds", type=int, default=32, metavar="N", help="seeds in the grid of samples")
    parser.add_argument("--pairs", type=int, default=15, metavar="N", help="nearest pairs shown per run and space")
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda; without it cuda where there is one")
    return parser
