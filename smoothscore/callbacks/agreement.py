"""A number that all processes agree on, so that they act at the same step."""

import torch
from lightning import Trainer
from torch import distributed


class Agreement:
    """The largest of the numbers that the processes give, exchanged on the host so that no device is waited for.

    Every process must call the same methods in the same order. With one process it is the number itself.
    """

    def __init__(self, trainer: Trainer) -> None:
        several = trainer.world_size > 1 and distributed.is_available() and distributed.is_initialized()
        self._group: distributed.ProcessGroup | None = None
        if several:
            self._group = distributed.new_group(backend="gloo")  # type: ignore[assignment]
        self._pending: tuple[torch.Tensor, distributed.Work | None] | None = None

    def later(self, number: int) -> int:
        """Give a number, and get the largest of those of the call before: its exchange went on meanwhile."""
        if self._group is None:
            return number
        settled = 0
        if self._pending is not None:
            given, work = self._pending
            if work is not None:
                work.wait()
            settled = int(given)
        given = torch.tensor(number)
        work = distributed.all_reduce(given, distributed.ReduceOp.MAX, group=self._group, async_op=True)
        self._pending = (given, work)
        return settled

    def now(self, number: int) -> int:
        """Give a number, wait for the others, and get the largest."""
        if self._group is None:
            return number
        given = torch.tensor(number)
        distributed.all_reduce(given, distributed.ReduceOp.MAX, group=self._group)
        return int(given)
