"""What metrics keep of every sample, over batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class PerSample(Metric):
    """A metric that keeps named columns with a row for every sample, and is computed from all of them together.

    After gathering, samples stand in the order of processes, batch by batch.

    Args:
        none: every column without a row. Gathering needs equal shapes and types in all processes, also from one that
            never saw a sample.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    def __init__(self, **none: Tensor) -> None:
        super().__init__()
        self._none = none
        for name in none:
            self.add_state(name, [], dist_reduce_fx="cat")
        self._start()

    def reset(self) -> None:
        """Forget all samples; references stay."""
        super().reset()
        self._start()

    def _start(self) -> None:
        for name, none in self._none.items():
            setattr(self, name, [none.to(self.device)])

    def _add(self, **rows: Tensor) -> None:
        for name, value in rows.items():
            getattr(self, name).append(value.to(self.device))

    def _columns(self) -> dict[str, Tensor]:
        states = {name: getattr(self, name) for name in self._none}
        return {name: torch.cat(state) if isinstance(state, list) else state for name, state in states.items()}
