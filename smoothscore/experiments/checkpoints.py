"""Trained networks beside the exact score: opened, named and checked before an experiment starts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.modules import ScoreModule
from smoothscore.modules.checkpoint import Trained, load_trained

_BATCH = 64  # points that a network is given at once


def open_checkpoints(checkpoints: Sequence[str]) -> dict[str, Trained]:
    """Open checkpoints, each under the shortest name that tells them apart: its run, run and file, or whole path.

    Raises:
        UserError: a checkpoint that is not there or cannot be opened.
    """
    paths = list(dict.fromkeys(Path(checkpoint).absolute() for checkpoint in checkpoints))
    names = [path.parent.parent.name if path.parent.name == "checkpoints" else path.stem for path in paths]
    if len(set(names)) < len(paths):
        names = [f"{name}/{path.stem}" for name, path in zip(names, paths, strict=True)]
    if len(set(names)) < len(paths):
        names = [str(path) for path in paths]
    return {name: load_trained(path) for name, path in zip(names, paths, strict=True)}


def check_shape(name: str, module: ScoreModule, shape: tuple[int, ...]) -> None:
    """Raise `UserError` where a network takes images of another shape than the data's."""
    size, channels = (getattr(module.network, key, None) for key in ("image_size", "in_channels"))
    wanted = (channels or shape[0], size or shape[1], size or shape[2])
    if wanted != shape:
        raise UserError(
            f"The network of checkpoint {name} takes images of shape {list(wanted)}, but the data's are {list(shape)}: "
            "give data of that shape, or leave data out to take the checkpoint's own."
        )


def batched_score(module: ScoreModule) -> Callable[[Tensor, float], Tensor]:
    """The learned score of any number of points, a batch at a time."""

    @torch.no_grad()
    def score(x: Tensor, sigma: float) -> Tensor:
        return torch.cat([module.score(part, sigma) for part in torch.split(x.float(), _BATCH)])

    return score
