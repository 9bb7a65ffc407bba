"""`smoothscore neighbors build | inspect | export-features | import`: the neighbor table of a data set."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

import smoothscore.data
import smoothscore.neighbors  # noqa: F401  # both imported, so that class_path takes short names
from smoothscore.data import ImageDataModule
from smoothscore.data.grid import row_grid, save_png
from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborTable, TableSummary, export_features, import_table


def run(name: str, args: Sequence[str]) -> None:
    """Build a table from a data module, look at a saved one, or exchange with another engine."""
    parser = _parser(name)
    options = parser.parse_args(list(args))
    command = {"build": _build, "inspect": _inspect, "export-features": _export, "import": _import}[options.subcommand]
    command(parser.instantiate(options)[options.subcommand])


def _build(options: Namespace) -> None:
    data: ImageDataModule = options.data
    if data.k is None:
        raise UserError("neighbors build needs the number of neighbors: give --data.k, for instance 30.")
    data.setup()
    assert data.table is not None
    print_summary(data.table.describe())
    if options.out:
        data.table.save(options.out)
        print(f"table: {options.out}")
    _picture(data.table, data, options.picture, options.rows)


def _inspect(options: Namespace) -> None:
    table = NeighborTable.load(options.table)
    print_summary(table.describe())
    if options.picture and options.data is None:
        raise UserError("--picture shows images: give the data set that the table was built from with --data.")
    if options.data is not None:
        if len(options.data.train.pixels) != len(table):
            raise UserError(
                f"{options.table} has {len(table)} rows, but the data have {len(options.data.train.pixels)} training "
                "images: give the data options that the table was built with."
            )
        _picture(table, options.data, options.picture, options.rows)


def _export(options: Namespace) -> None:
    data: ImageDataModule = options.data
    device = "cuda" if torch.cuda.is_available() else None
    export_features(data.train.pixels, options.out, extractor=data.extractor, device=device)
    print(f"features: {options.out}")


def _import(options: Namespace) -> None:
    table = import_table(
        options.features,
        options.indices,
        options.distances,
        squared=options.squared,
        k=options.k,
        with_self=options.with_self,
        engine=options.engine,
        recall_floor=options.recall_floor,
    )
    table.save(options.out)
    print_summary(table.describe())
    print(f"table: {options.out} (train with it: --data.init_args.table_path {options.out})")


def print_summary(summary: TableSummary) -> None:
    """Print what a table says of a data set."""
    grid = Table(title=f"{summary.rows} images, {summary.k} neighbors each (itself included), {summary.space} space")
    grid.add_column("quantile")
    for quantile in summary.nearest:
        grid.add_column(f"{quantile:.0%}", justify="right")
    grid.add_row("distance to the nearest other image", *[f"{value:.4g}" for value in summary.nearest.values()])
    grid.add_row(f"distance to neighbor {summary.k}", *[f"{value:.4g}" for value in summary.farthest.values()])
    grid.add_row("lists that an image stands in", *[str(value) for value in summary.in_degree.values()])
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(grid)
    print(f"{summary.accuracy}")
    print(f"images with an exact copy: {summary.duplicates}; in nobody's list: {summary.never_neighbor}")


def _picture(table: NeighborTable, data: ImageDataModule, path: str | None, rows: int) -> None:
    if path is None:
        return
    images = data.train.pixels
    shown = torch.linspace(0, len(table) - 1, min(rows, len(table))).round().long()
    save_png(row_grid(images[table.indices[shown, :16]]), Path(path))
    print(f"picture: {path} (each row: an image, then its neighbors)")


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}", description="Build, inspect or import the neighbor table of a data set."
    )
    commands = parser.add_subcommands()
    build = ArgumentParser(description="Find the neighbors of every training image, or take them from the cache.")
    build.add_argument("--config", action="config", help="YAML with the options below")
    build.add_argument("--data", type=ImageDataModule, required=True, help="data set, with k and extractor")
    build.add_argument("--out", type=str | None, metavar="DIR", help="save the table there as well")
    inspect = ArgumentParser(description="Print what a saved table holds.")
    inspect.add_argument("table", type=str, help="folder of a saved table")
    inspect.add_argument("--data", type=ImageDataModule | None, help="data set the table was built from")
    export = ArgumentParser(description="Write the features of all training images as shards, for another engine.")
    export.add_argument("--config", action="config", help="YAML with the options below")
    export.add_argument("--data", type=ImageDataModule, required=True, help="data set, with extractor (none: pixels)")
    export.add_argument(
        "--out", type=str, required=True, metavar="DIR", help="folder; an unfinished one is gone on with"
    )
    taken = ArgumentParser(description="Check the neighbors that another engine found, and save them as a table.")
    taken.add_argument("--features", type=str, required=True, metavar="DIR", help="folder of export-features")
    taken.add_argument("--indices", type=str, required=True, nargs="+", metavar="NPY", help="int64 [m, K], in order")
    taken.add_argument("--distances", type=str, required=True, nargs="+", metavar="NPY", help="float32 [m, K]")
    taken.add_argument("--squared", type=bool, required=True, help="whether the distances are squared")
    taken.add_argument("--k", type=int | None, help="neighbors to keep, the image itself included; by default all")
    taken.add_argument("--with_self", type=bool, default=False, help="whether every row lists itself; it is dropped")
    taken.add_argument("--engine", type=str, default="imported", help="what the table calls the search")
    taken.add_argument("--recall_floor", type=float, default=0.95, help="recall under which the table is refused")
    taken.add_argument("--out", type=str, required=True, metavar="DIR", help="folder of the table")
    for command in (build, inspect):
        command.add_argument("--picture", type=str | None, metavar="PNG", help="draw some images and their neighbors")
        command.add_argument("--rows", type=int, default=12, help="images in the picture")
    commands.add_subcommand("build", build)
    commands.add_subcommand("inspect", inspect)
    commands.add_subcommand("export-features", export)
    commands.add_subcommand("import", taken)
    return parser
