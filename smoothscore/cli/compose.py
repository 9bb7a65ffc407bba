"""Configurations that begin with others: `base:` in a YAML file, so that a row of a table is a few lines."""

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from smoothscore.errors import UserError


def expand_bases(args: Sequence[str]) -> list[str]:
    """Put before every `--config FILE` the files that FILE names under `base`, and theirs before them.

    `base` is a path or a list of paths, relative to the file; later files win, so FILE changes what its bases say. A
    file with a base is handed on as text, so paths in it other than `base` are relative to the working directory:
    keep fragments that name other fragments in files without a base.

    Raises:
        UserError: a base that does not exist, or files that name each other in a circle.
    """
    expanded: list[str] = []
    rest = iter(args)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if flag not in ("--config", "-c"):
            expanded.append(argument)
            continue
        path = value if equals else next(rest, None)
        configs = [] if path is None else _chain(Path(path), ())
        expanded += [flag] if path is None else [part for config in configs for part in ("--config", config)]
    return expanded


def _chain(path: Path, above: tuple[Path, ...]) -> list[str]:
    """A file as the texts and paths that `--config` takes, its bases first."""
    path = Path(os.path.normpath(path.absolute()))
    if path in above:
        raise UserError(f"{path} is a base of itself, by way of {above[-1]}: remove one of the two `base` lines.")
    if not path.is_file():
        if above:
            raise UserError(
                f"{above[-1]} names the base {path}, which does not exist: paths are relative to that file."
            )
        return [str(path)]  # the parser says what is wrong
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        return [str(path)]
    if not isinstance(content, dict) or "base" not in content:
        return [str(path)]
    bases = content.pop("base")
    parts = [part for base in ([bases] if isinstance(bases, str) else bases)
             for part in _chain(path.parent / base, (*above, path))]  # fmt: skip
    return [*parts, yaml.safe_dump(content)] if content else parts
