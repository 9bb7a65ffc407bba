"""A trained module, opened alone from its checkpoint."""

from collections.abc import Mapping
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
from smoothscore.data.rebuild import build_data, parse_again
from smoothscore.errors import UserError
from smoothscore.modules.base import ScoreModule


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
            UserError: an imported checkpoint, which names no data, or a class that is not there (any more).
        """
        if "data" not in self.config:
            raise UserError(f"{self.path} does not say what it was trained on: give the data set with --data.")
        return build_data(self.config, self.path)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint, read without running code that it may hold.

    Raises:
        UserError: unless the file is a whole checkpoint.
    """
    if not path.is_file():
        raise UserError(f"The checkpoint {path} does not exist: name a file of a run, such as checkpoints/last.ckpt.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for damaged archives
        raise UserError(
            f"The checkpoint {path} cannot be read ({str(error).splitlines()[0]}): it is damaged, or no checkpoint."
        ) from error
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"The checkpoint {path} holds no state_dict: it was not written by smoothscore.")
    return content


def load_trained(path: Path | str, *, average: bool = True) -> Trained:
    """Build the module of a checkpoint again, as its configuration says.

    Args:
        path: a checkpoint that `smoothscore fit` wrote.
        average: take the averaged weights of the EMA callback where there are any, else the raw ones.

    Raises:
        UserError: no whole checkpoint, one without configuration, or one whose classes are not there (any more).
    """
    path = Path(path)
    content = read_checkpoint(path)
    record = content.get("smoothscore")
    if not isinstance(record, dict) or "config" not in record:
        raise UserError(f"{path} keeps no configuration, so it cannot be opened alone: train with `smoothscore fit`.")
    config = yaml.safe_load(record["config"])
    module = build_module(config, path)
    weights = dict(content["state_dict"])
    averages = [
        state["average"]
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("EMA") and state.get("average")
    ]
    if average and averages:
        weights.update(averages[0])
    fill(module, weights, path)
    return Trained(module.eval().requires_grad_(False), config, int(content.get("global_step", 0)), path)


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
    except RuntimeError as error:
        raise UserError(f"The weights in {source} do not fit its configuration: {error}") from error
