"""Exponential moving average of the weights."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from smoothscore.errors import UserError


class EMA(Callback):
    """Average the weights while training; validate, test, sample and finish with the average.

    w̄ ← ρ_n w̄ + (1 − ρ_n) w after optimizer step n = 1, 2, …,  ρ_n = min(decay, (1 + n)/(10 + n))

    The ramp makes the average follow the first steps closely, so it never holds the initial weights. In a checkpoint
    `state_dict` holds the raw weights and this callback's state the average: a resumed run goes on with both, bit for
    bit. After `fit` the module holds the average.

    Args:
        decay: ρ, the limit of the averaging rate; the paper uses 0.9999, short trainings want less.

    Raises:
        UserError: unless 0 ≤ decay < 1; a checkpoint's average that does not fit the module.
    """

    def __init__(self, decay: float = 0.9999) -> None:
        if not 0 <= decay < 1:
            raise UserError(f"EMA: decay is {decay}, but it must lie in [0, 1); 0.9999 is usual for long trainings.")
        self.decay = decay
        self.num_updates = 0
        self._average: dict[str, Tensor] = {}
        self._raw: dict[str, Tensor] | None = None  # the raw weights while the module holds the average
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the weights, or go on from a checkpoint."""
        self._restore(pl_module)
        if not self._average:
            self._average = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        self._to_module_device(pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average once per optimizer step, also where gradients are accumulated over several batches."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self.num_updates += 1
        rate = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        averages, weights = self._paired(pl_module)
        torch._foreach_lerp_(averages, weights, 1 - rate)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lend the average to the module."""
        self._lend(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the raw weights back."""
        self._restore(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lend the average to the module."""
        self._lend(pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lend the average to the module."""
        self._lend(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the module."""
        self._lend(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the raw weights back before anything is saved."""
        self._restore(pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the raw weights under `state_dict`, also while the average is lent."""
        if self._raw is not None:
            checkpoint["state_dict"] = {**checkpoint["state_dict"], **self._raw}

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates that made it."""
        return {"num_updates": self.num_updates, "average": self._average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the average of a checkpoint."""
        self.num_updates = state_dict["num_updates"]
        self._average = dict(state_dict["average"])

    def _lend(self, pl_module: LightningModule) -> None:
        if not self._average or self._raw is not None:
            return
        self._to_module_device(pl_module)
        self._raw = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        _copy_into(pl_module, self._average)

    def _restore(self, pl_module: LightningModule) -> None:
        if self._raw is not None:
            _copy_into(pl_module, self._raw)
            self._raw = None

    def _to_module_device(self, pl_module: LightningModule) -> None:
        self._paired(pl_module)
        self._average = {name: self._average[name].to(p.device) for name, p in pl_module.named_parameters()}

    def _paired(self, pl_module: LightningModule) -> tuple[list[Tensor], list[Tensor]]:
        weights = dict(pl_module.named_parameters())
        if {n: p.shape for n, p in weights.items()} != {n: a.shape for n, a in self._average.items()}:
            different = sorted(set(weights) ^ set(self._average)) or "their shapes"
            raise UserError(
                f"EMA: the checkpoint's average does not fit the module ({different} differ): resume with the "
                "network that the checkpoint was trained with."
            )
        return [self._average[name] for name in weights], [weight.detach() for weight in weights.values()]


@torch.no_grad()
def _copy_into(pl_module: LightningModule, values: Mapping[str, Tensor]) -> None:
    for name, parameter in pl_module.named_parameters():
        parameter.copy_(values[name])
