"""Shared fixtures: the embedded emoji as real images."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import Tensor

pytest_plugins = ["tests.robustness.tally"]


@pytest.fixture(scope="session")
def emoji() -> Tensor:
    """All 1,412 embedded images, uint8 [1412, 3, 32, 32]; rows repeat at five places (1,407 unique)."""
    with np.load(str(files("smoothscore") / "data" / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        return torch.from_numpy(archive["x"]).permute(0, 3, 1, 2).contiguous()


@pytest.fixture(scope="session")
def emoji_labels() -> Tensor:
    """Category of each embedded image, int64 [1412], 7 kinds."""
    with np.load(str(files("smoothscore") / "data" / "assets" / "emoji32.npz"), allow_pickle=False) as archive:
        return torch.from_numpy(archive["y"].astype(np.int64))
