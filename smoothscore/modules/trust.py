"""Which classes a checkpoint may ask for: those of smoothscore, torch's optimizers, and what its own run named."""

import importlib.util
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch.optim import Optimizer

from smoothscore.errors import UserError

INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"  # the one that Lightning's command line writes
_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def refuse_foreign_instantiator(content: Mapping[str, Any], source: Path) -> None:
    """Check the function by which a checkpoint wants its module to be made.

    Raises:
        UserError: it is another one than Lightning's.
    """
    for part in ("hyper_parameters", "datamodule_hyper_parameters"):
        given = content.get(part)
        wanted = given.get("_instantiator", INSTANTIATOR) if isinstance(given, Mapping) else INSTANTIATOR
        if wanted != INSTANTIATOR:
            raise UserError(f"The checkpoint {source} asks for {wanted} to be run (_instantiator), and was not opened.")


def refuse_foreign_classes(config: object, known: Collection[str], source: Path) -> None:
    """Check every class and function that a configuration out of a file names, without importing any.

    Args:
        config: nested mappings and lists.
        known: what is let through besides smoothscore's own and torch's optimizers.
        source: the file, for the error.

    Raises:
        UserError: another class or function.
    """
    for name in sorted(named_classes(config)):
        if name not in known and not _is_ours(name):
            raise UserError(
                f"{source} asks for {name}, which is not part of smoothscore, and was not opened. If you trust it: "
                "a checkpoint opens beside the config.yaml of its run, which names the class; `load_exported` takes it "
                "as `trust`."
            )


def named_classes(config: object) -> set[str]:
    """The classes and functions that a configuration names."""
    names: set[str] = set()
    seen: set[int] = set()  # YAML's aliases can make one list stand in a million places
    waiting = [config]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str) and _DOTTED.fullmatch(part) and _can_be_imported(part):
            names.add(part)  # a class or function may be named by itself, without class_path
        elif isinstance(part, (Mapping, list, tuple)) and id(part) not in seen:
            seen.add(id(part))
            waiting.extend(part.values() if isinstance(part, Mapping) else part)
            if isinstance(part, Mapping):
                names |= {str(part[key]) for key in ("class_path", "_class_path") if isinstance(part.get(key), str)}
    return names


def _can_be_imported(name: str) -> bool:
    """Whether a dotted name, which may as well be that of a file, begins with a module that Python would find."""
    top = name.partition(".")[0]
    if top in sys.modules:
        return True
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False


def _is_ours(name: str) -> bool:
    """Whether a name stands for something defined in smoothscore, or for one of torch's optimizers."""
    if "." not in name:  # a short name: the parser knows the classes that are imported already
        return True
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    home = getattr(found, "__module__", None) or ""
    if isinstance(found, type) and issubclass(found, Optimizer) and home.startswith("torch.optim"):
        return True
    return callable(found) and home.partition(".")[0] == "smoothscore"
