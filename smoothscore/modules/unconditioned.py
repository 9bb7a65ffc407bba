"""The preset of Eq. (9)."""

from typing import Any

from torch import nn

from smoothscore.modules.base import ScoreModule, check_conditioned


class NoiseUnconditioned(ScoreModule):
    """Noise unconditioning: the network is never told σ, so every center speaks at its own best level.

    Args:
        network: a blind network.
        options: those of `ScoreModule`.

    Raises:
        UserError: a conditioned network.

    Source: arXiv 2601.19285, Eq. (9).
    """

    def __init__(self, network: nn.Module, **options: Any) -> None:
        check_conditioned(network, False, "NoiseUnconditioned")
        super().__init__(network, **options)
