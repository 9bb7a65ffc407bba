"""The command line. Nothing heavy is imported before a command is known, so that `--help` answers at once."""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from smoothscore import __version__
from smoothscore.errors import UserError


class Command(NamedTuple):
    """Where a command lives and what `--help` says of it."""

    module: str
    help: str


COMMANDS = {
    "fit": Command("training", "train a model from a config, or resume it"),
    "validate": Command("training", "loss, samples and measures of a checkpoint"),
    "test": Command("training", "the same, as a final evaluation"),
    "predict": Command("training", "draw samples from a checkpoint"),
    "neighbors": Command("neighbors", "build, inspect, export or import the neighbor table of a data set"),
    "analyze": Command("analyze", "the paper's numerical experiments, on any data set and without training"),
    "compare": Command("compare", "table and report.html of several runs side by side"),
    "extract": Command("extract", "which samples of any model are copies of training images, and a page to review"),
    "dedup": Command("dedup", "exact and near duplicates of a data set, and a list that trainings leave out"),
    "dashboard": Command("dashboard", "a W&B report of a project's runs, with every measure explained"),
    "export": Command("exchange", "weights of a checkpoint as safetensors, with a model card"),
    "import": Command("exchange", "a checkpoint of score_sde_pytorch as one of ours"),
}


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; an error that the user can mend ends in one paragraph and exit status 1."""
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] == "--version":
        print(f"smoothscore {__version__}")
        return
    name, rest = args[0], args[1:]
    if name not in COMMANDS:
        _fail(f'"{name}" is no command of smoothscore; there are {", ".join(COMMANDS)}. Try smoothscore --help.')
    if os.getcwd() not in sys.path:  # so that class_path: mine.MyTarget finds a file beside the user
        sys.path.insert(0, os.getcwd())
    try:
        importlib.import_module(f"smoothscore.cli.{COMMANDS[name].module}").run(name, rest)
    except ValueError as error:
        cause = user_error(error)
        if cause is None or os.environ.get("SMOOTHSCORE_DEBUG") == "1":
            raise
        _fail(str(cause))


def user_error(error: BaseException | None) -> UserError | None:
    """The `UserError` behind an error, if there is one: the parser wraps those of constructors in its own."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__ or error.__context__
    return None


def usage() -> str:
    """What `smoothscore --help` prints."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: smoothscore COMMAND [options]",
            "",
            "Train diffusion models whose score is smoothed on purpose, and measure what that wins.",
            "",
            "commands:",
            *lines,
            "",
            "smoothscore COMMAND --help lists the options of a command; --version prints the version.",
            "A first run:  smoothscore fit --config configs/experiment/emoji_fast.yaml",
            "SMOOTHSCORE_DEBUG=1 shows the traceback of an error.",
        ]
    )


def _fail(message: str) -> None:
    print(f"smoothscore: error: {message}", file=sys.stderr)
    raise SystemExit(1)
