"""The preset of Eq. (8)."""

from typing import Any

from torch import nn

from smoothscore.modules.base import ScoreModule, check_conditioned


class NoiseConditioned(ScoreModule):
    """The baseline: the network is told σ, its target is denoising.

    Args:
        network: a conditioned network.
        options: those of `ScoreModule`.

    Raises:
        UserError: a blind network.

    Source: arXiv 2601.19285, Eq. (8).
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        check_conditioned(network, True, "NoiseConditioned")
        super().__init__(network, **options)
