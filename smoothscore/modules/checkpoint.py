"""A trained module, opened alone from its checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from jsonargparse import ArgumentParser

import smoothscore.networks  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.data import ImageDataModule
from smoothscore.data.rebuild import build_data, parse_again
from smoothscore.errors import UserError
from smoothscore.modules.base import ScoreModule


class Trained(NamedTuple):
    """What a checkpoint holds."""

    module: ScoreModule  # in evaluation mode, with the averaged weights where there are any
    data: ImageDataModule  # without neighbor table
    step: int


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
    """Build module and data of a checkpoint again, as its configuration says.

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
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScoreModule, "model", required=True)
    module: ScoreModule = parser.instantiate(parse_again(parser, {"model": config["model"]}, path)).model
    weights = dict(content["state_dict"])
    averages = [
        state["average"]
        for name, state in content.get("callbacks", {}).items()
        if name.startswith("EMA") and state.get("average")
    ]
    if average and averages:
        weights.update(averages[0])
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"The weights in {path} do not fit its own configuration: {error}") from error
    return Trained(module.eval().requires_grad_(False), build_data(config, path), int(content.get("global_step", 0)))
