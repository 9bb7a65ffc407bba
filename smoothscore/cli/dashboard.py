"""`smoothscore dashboard`: every measure of a W&B project's runs as a report, or as a saved view."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser

from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.report.wandb_pages import build_page, page_spec, save_page


def run(name: str, args: Sequence[str]) -> None:
    """Build the page, and save it in the project or write it as a file."""
    options = _parser(name).parse_args(list(args))
    out = None if options.out is None else Path(options.out)
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file, such as {out / 'dashboard.json'}.")
    page = build_page(
        options.project, kind=options.kind, entity=options.entity, group=options.group, title=options.title
    )
    if out is None:
        print(save_page(page))
        return
    write_atomically(out, (json.dumps(page_spec(page), indent=1, ensure_ascii=False) + "\n").encode())
    print(out)


def _parser(name: str) -> ArgumentParser:
    parser = ArgumentParser(
        prog=f"smoothscore {name}",
        description="Make a W&B report of a project's runs: what each measure is and which direction is good, and its "
        "curves, sample grids and tables of nearest training images beside it. It fits whatever features and noise "
        "levels the runs were measured at, and shows runs that are added later. Each call makes a new report. Needs "
        "`wandb login` and pip install 'smoothscore[wandb]'.",
    )
    parser.add_argument("--project", type=str, required=True, help="W&B project, which must exist")
    parser.add_argument("--entity", type=str, default="", help="its user or team; default: that of the account")
    parser.add_argument("--group", type=str, help="only runs of this group (`group` of WandbLogger)")
    parser.add_argument(
        "--kind",
        type=Literal["report", "view"],
        default="report",
        help="a report, or a saved view of the project's workspace with the same panels",
    )
    parser.add_argument("--title", type=str, help="of the page; default: smoothscore, and the group")
    parser.add_argument("--out", type=str, metavar="FILE", help="write what would be sent as JSON, and send nothing")
    return parser
