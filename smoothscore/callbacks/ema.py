"""Exponential moving average of the weights."""

from collections.abc import Mapping, Sequence
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
        others: further rates that are averaged and saved beside it. `validate`, `test` and `predict` with another
            `decay` among those of the checkpoint use that one, and `smoothscore export --decay` writes it.

    Raises:
        UserError: unless all rates lie in [0, 1) and differ; a checkpoint's average that does not fit the module, or a
            checkpoint without one of the rates.
    """

    def __init__(self, decay: float = 0.9999, others: Sequence[float] = ()) -> None:
        rates = (decay, *others)
        for rate in rates:
            if not 0 <= rate < 1:
                raise UserError(f"EMA: decay is {rate}, but it must lie in [0, 1); 0.9999 is usual for long trainings.")
        if len(set(rates)) < len(rates):
            raise UserError(f"EMA: decay {decay} and others {list(others)} name a rate twice: once is enough.")
        self.decay, self.others = decay, tuple(others)
        self.num_updates = 0
        self._averages: dict[float, dict[str, Tensor]] = {}  # by rate
        self._raw: dict[str, Tensor] | None = None  # the raw weights while the module holds the average
        self._last_step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin from the weights, or go on from a checkpoint."""
        self._restore(pl_module)
        if not self._averages:
            start = {name: p.detach() for name, p in pl_module.named_parameters()}
            self._averages = {
                rate: {name: value.clone() for name, value in start.items()} for rate in (self.decay, *self.others)
            }
        self._to_module_device(pl_module)
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Average once per optimizer step, also where gradients are accumulated over several batches."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        self.num_updates += 1
        for decay, average in self._averages.items():
            rate = min(decay, (1 + self.num_updates) / (10 + self.num_updates))
            torch._foreach_lerp_(*_paired(average, pl_module), 1 - rate)

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
        """The averages by their rates, `average` that of `decay`, and the number of updates that made them."""
        others = {rate: average for rate, average in self._averages.items() if rate != self.decay}
        average = self._averages.get(self.decay, {})
        return {"num_updates": self.num_updates, "decay": self.decay, "average": average, "others": others}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the averages of a checkpoint."""
        saved = {state_dict.get("decay", self.decay): state_dict["average"], **state_dict.get("others", {})}
        missing = [rate for rate in (self.decay, *self.others) if rate not in saved]
        if missing:
            raise UserError(
                f"EMA: the checkpoint holds averages of decay {', '.join(map(str, saved))}, but not of "
                f"{', '.join(map(str, missing))}: ask for what it has, an average cannot be begun later."
            )
        self.num_updates = state_dict["num_updates"]
        self._averages = {rate: dict(saved[rate]) for rate in (self.decay, *self.others)}

    def _lend(self, pl_module: LightningModule) -> None:
        if not self._averages or self._raw is not None:
            return
        self._to_module_device(pl_module)
        self._raw = {name: p.detach().clone() for name, p in pl_module.named_parameters()}
        _copy_into(pl_module, self._averages[self.decay])

    def _restore(self, pl_module: LightningModule) -> None:
        if self._raw is not None:
            _copy_into(pl_module, self._raw)
            self._raw = None

    def _to_module_device(self, pl_module: LightningModule) -> None:
        for average in self._averages.values():
            _paired(average, pl_module)
            average.update({name: average[name].to(p.device) for name, p in pl_module.named_parameters()})


def _paired(average: Mapping[str, Tensor], pl_module: LightningModule) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors of an average and of the module in one order."""
    weights = dict(pl_module.named_parameters())
    if {n: p.shape for n, p in weights.items()} != {n: a.shape for n, a in average.items()}:
        different = sorted(set(weights) ^ set(average)) or "their shapes"
        raise UserError(
            f"EMA: the checkpoint's average does not fit the module ({different} differ): resume with the "
            "network that the checkpoint was trained with."
        )
    return [average[name] for name in weights], [weight.detach() for weight in weights.values()]


@torch.no_grad()
def _copy_into(pl_module: LightningModule, values: Mapping[str, Tensor]) -> None:
    for name, parameter in pl_module.named_parameters():
        parameter.copy_(values[name])
