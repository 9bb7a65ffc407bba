"""A trained module, opened alone from its checkpoint."""

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from torch import Tensor

import smoothscore.networks  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.data import ImageDataModule
from smoothscore.data.rebuild import build_data, parse_again, without_extractor
from smoothscore.data.seal import check_seal
from smoothscore.errors import UserError, why_unreadable
from smoothscore.modules.base import ScoreModule
from smoothscore.modules.trust import named_classes, refuse_foreign_classes, refuse_foreign_instantiator


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes:
        module: in evaluation mode, with the averaged weights where there are any.
        config: model, data and trainer as they were asked for.
        step: optimizer steps it was trained for.
        path: the file.
    """

    module: ScoreModule
    config: Mapping[str, Any]
    step: int
    path: Path

    @cached_property
    def data(self) -> ImageDataModule:
        """The data module it was trained on, without neighbor table.

        Raises:
            UserError: an imported checkpoint, which names no data; a class that is not there (any more), or that is
                neither smoothscore's nor named by the run.
        """
        if "data" not in self.config:
            raise UserError(f"{self.path} does not say what it was trained on: give the data set with --data.")
        refuse_foreign_classes(without_extractor(self.config["data"]), known_by_run(self.path), self.path)
        return build_data(self.config, self.path)


def read_checkpoint(path: Path, *, mmap: bool = True) -> dict[str, Any]:
    """The content of a checkpoint, read without running code that it may hold.

    One that smoothscore wrote carries the SHA-256 of its bytes and is compared with it. Others load too, with a
    warning that damage to them would not show.

    Args:
        path: the file.
        mmap: leave the weights on the disk until they are used.

    Raises:
        UserError: unless the file is a whole checkpoint that asks for nothing to be run.
    """
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist: name a file of a run, such as checkpoints/last.ckpt.")
    try:
        sealed = check_seal(path)
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch raises many kinds for damaged archives
        raise UserError(
            f"The checkpoint {path} cannot be read ({why_unreadable(error)}): it is damaged, or no checkpoint. "
            f"{_others(path)}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise UserError(f"The checkpoint {path} holds no state_dict: it was not written by smoothscore.")
    refuse_foreign_instantiator(content, path)
    if not sealed:
        warnings.warn(f"The checkpoint {path} carries no digest of its bytes: damage would not show.", stacklevel=2)
    return content


def _others(path: Path) -> str:
    """Where to go on instead."""
    others = sorted(set(path.parent.glob("*.ckpt")) - {path}, key=lambda other: other.stat().st_mtime)
    return f"Another one of this run is {others[-1]}." if others else "There is no other one beside it."


def load_trained(path: Path | str, *, average: bool | float = True) -> Trained:
    """Build the module of a checkpoint again, as its configuration says.

    Args:
        path: a checkpoint that `smoothscore fit` wrote.
        average: take the averaged weights of the EMA callback where there are any, else the raw ones; a number is the
            decay of the average to take.

    Raises:
        UserError: no whole checkpoint, no average of this decay, one without configuration, or one whose classes are
            not there (any more), or are neither smoothscore's, nor torch's optimizers, nor named by the config.yaml of
            its run.
    """
    path = Path(path)
    content = read_checkpoint(path)
    record = content.get("smoothscore")
    if not isinstance(record, dict) or "config" not in record:
        raise UserError(f"{path} keeps no configuration, so it cannot be opened alone: train with `smoothscore fit`.")
    config = _parse_config(record["config"], path)
    refuse_foreign_classes(config["model"], known_by_run(path), path)
    module = build_module(config, path)
    weights = dict(content["state_dict"])
    if average is not False:
        weights.update(_average(content, None if average is True else average, path))
    fill(module, weights, path)
    return Trained(module.eval().requires_grad_(False), config, int(content.get("global_step", 0)), path)


def _average(content: Mapping[str, Any], decay: float | None, path: Path) -> Mapping[str, Tensor]:
    """The averaged weights of a checkpoint: those of the EMA's `decay`, or of another of its rates."""
    callbacks = content.get("callbacks") or {}
    states = [state for name, state in callbacks.items() if str(name).startswith("EMA") and state.get("average")]
    averages = {rate: average for state in states for rate, average in _by_rate(state).items()}
    if decay is None:
        return next(iter(averages.values()), {})
    if decay not in averages:
        held = ", ".join(map(str, averages)) or "no average at all"
        raise UserError(f"{path} holds no average of decay {decay}, but {held}.")
    return averages[decay]


def _by_rate(state: Mapping[str, Any]) -> dict[float, Mapping[str, Tensor]]:
    return {state.get("decay", math.nan): state["average"], **state.get("others", {})}


def _parse_config(text: object, source: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(str(text))
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise ValueError("it names no model")
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"The configuration in {source} is damaged ({' '.join(str(error).split())}).") from error
    return config


def known_by_run(path: Path) -> frozenset[str]:
    """The classes that the configuration of a checkpoint's run names, in the run's folder or beside the file."""
    known: set[str] = set()
    for folder in (path.absolute().parent, path.absolute().parent.parent):
        for file in folder.glob("config*.yaml"):
            with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
                known |= named_classes(yaml.safe_load(file.read_text()))
    return frozenset(known)


def build_module(config: Mapping[str, Any], source: Path) -> ScoreModule:
    """The untrained module of a configuration's part `model`; ``source`` is the file it came from, for the error.

    Raises:
        UserError: a class or an option that is not there (any more).
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScoreModule, "model", required=True)
    module: ScoreModule = parser.instantiate(parse_again(parser, {"model": config["model"]}, source)).model
    return module


def fill(module: ScoreModule, weights: Mapping[str, Tensor], source: Path) -> None:
    """Load all weights of a module.

    Raises:
        UserError: weights that are missing, left over or of another shape.
    """
    try:
        module.load_state_dict(dict(weights))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The weights in {source} do not fit its configuration: {error}") from error
