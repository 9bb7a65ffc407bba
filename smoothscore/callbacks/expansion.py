"""How far one sampling step drives two close points apart, for the network and for the exact score."""

import math
from collections.abc import Callable

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from smoothscore.callbacks.logger import log_curves
from smoothscore.errors import UserError
from smoothscore.functional import expansion_ratio, nearest_pairs, random_pairs
from smoothscore.modules import ScoreModule
from smoothscore.score import Conditioned, Unconditioned


class ExpansionRatio(Callback):
    """Log the expansion ratio γ_ex of the network and of the exact score of the training images.

    γ_ex = ‖y' − x'‖/‖y − x‖ after one step of points between two training images whose shells overlap. Logged at
    each noise level: expansion/network_σ, expansion/exact_σ (the conditioned or unconditioned exact score, as the
    network is) and expansion/overlap_σ, the share of pairs that have overlapping shells.

    Args:
        sigmas: noise levels.
        num_pairs: pairs of training images.
        pairs: "nearest" takes an image and its nearest other image, whose shells overlap down to small levels;
            "random" is the paper's choice.
        c: C, how much farther a point is from one image than from the other.
        step: η; 1 is a full denoising step.
        seed: of the pairs and of the points.
        batch_size: points that the network is given at a time.

    Raises:
        UserError: a noise level ≤ 0, an unknown kind of pairs.

    Source: arXiv 2601.19285, Sec. 3.2 and 5.1.2.
    """

    def __init__(
        self,
        sigmas: tuple[float, ...] = (0.1, 0.3, 1.0),
        *,
        num_pairs: int = 64,
        pairs: str = "nearest",
        c: float = 1.01,
        step: float = 1.0,
        seed: int = 0,
        batch_size: int = 32,
    ) -> None:
        if any(not sigma > 0 for sigma in sigmas):
            raise UserError(f"ExpansionRatio: sigmas are {list(sigmas)}, but noise levels are above 0.")
        if pairs not in ("nearest", "random"):
            raise UserError(f'ExpansionRatio: pairs is "{pairs}"; it must be "nearest" or "random".')
        self.sigmas = tuple(sigmas)
        self.num_pairs = num_pairs
        self.pairs = pairs
        self.c = c
        self.step = step
        self.seed = seed
        self.batch_size = batch_size

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        if not trainer.sanity_checking:
            self._measure(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure and log."""
        self._measure(trainer, pl_module)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not isinstance(pl_module, ScoreModule):
            raise UserError(f"ExpansionRatio measures a ScoreModule, but the model is {type(pl_module).__name__}.")
        train = pl_module.data.train.pixels
        pairs = self._pairs(train)
        if getattr(trainer, "fast_dev_run", False):  # a look at every part, not at every pair
            pairs = pairs[:2]
        mu0, mu1 = (train[rows].to(pl_module.device) for rows in pairs.unbind(1))
        blind = not getattr(pl_module.network, "conditioned", True)
        images = train.to(pl_module.device)
        exact = Unconditioned(images) if blind else Conditioned(images)
        curves: dict[str, list[float]] = {"network": [], "exact": []}
        for sigma in self.sigmas:
            for name, score in (("network", self._batched(pl_module.score)), ("exact", exact)):
                ratio, valid = self._ratio(score, mu0, mu1, sigma)
                mean = float(ratio[valid].mean()) if valid.any() else math.nan
                curves[name].append(mean)
                if valid.any():  # without overlapping shells there is no ratio; the logged share says so
                    pl_module.log(f"expansion/{name}_{sigma:g}", mean)
            pl_module.log(f"expansion/overlap_{sigma:g}", valid.float().mean())
        if trainer.is_global_zero:
            labels = {"network": "network", "exact": "exact score"}
            shown = {labels[name]: values for name, values in curves.items()}
            log_curves(
                trainer, "expansion/curve", self.sigmas, shown, x_label="noise level σ", y_label="expansion ratio"
            )

    def _batched(self, score: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
        def batched(x: Tensor, sigma: float) -> Tensor:
            return torch.cat([score(part, sigma) for part in torch.split(x, self.batch_size)])

        return batched

    def _pairs(self, train: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        if self.pairs == "random":
            return random_pairs(len(train), self.num_pairs, generator=generator)
        return nearest_pairs(train, min(self.num_pairs, len(train)), generator=generator)

    def _ratio(
        self, score: Callable[[Tensor, float], Tensor], mu0: Tensor, mu1: Tensor, sigma: float
    ) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        result = expansion_ratio(score, mu0, mu1, sigma, c=self.c, step=self.step, generator=generator)
        return result.ratio, result.valid
