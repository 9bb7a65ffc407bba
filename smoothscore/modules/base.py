"""What every variant shares: a network, noise levels, a target, and the loss between them."""

from collections.abc import Callable, Iterable
from typing import cast

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import MeanMetric

from smoothscore.data import Batch, ImageDataModule
from smoothscore.errors import UserError
from smoothscore.neighbors import NeighborStore
from smoothscore.schedules import log_uniform

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


def adamw(parameters: Iterable[nn.Parameter]) -> AdamW:
    """The paper's optimizer: AdamW at a learning rate of 2e-4."""
    return AdamW(parameters, lr=2e-4)


class ScoreModule(LightningModule):
    """A score network and the target it learns: subclass it and override `score_target` for a new scheme.

    loss = E_{σ_i, μ, x} [ (σ_i²/2) ‖ s_θ(x[, σ_i]) − target ‖² ] / d,  s_θ = −F_θ/σ_i,  x = μ + σ_i ε

    F_θ is what the network returns, a prediction of the unit noise ε. A network that is told σ gives the conditioned
    score, a blind one the unconditioned score; either works with any target. The noise of a training step is a
    function of (seed, step, rank), so a resumed run continues bit for bit.

    Args:
        network: module with `forward(x, sigma)` that returns F [B, *S]; its attribute `conditioned` says whether
            it uses σ.
        sigma_min: smallest noise level, in units of pixel values in [0, 1].
        sigma_max: largest noise level.
        num_levels: N, number of levels, log-uniform and equally likely.
        optimizer: from the parameters to an optimizer; AdamW at 2e-4 by default.
        warmup_steps: steps over which the learning rate rises linearly from 0.
        seed: of the noise.
        compile: compile the network with torch.compile when `fit` starts; checkpoints stay the same.

    Raises:
        UserError: σ_min ≤ 0 or σ_min ≥ σ_max, or images of another shape than the network's.

    Source: arXiv 2601.19285, Eq. (8) and (9).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_levels: int = 1000,
        optimizer: OptimizerFactory = adamw,
        warmup_steps: int = 0,
        seed: int = 42,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max
        self.levels = log_uniform(sigma_min, sigma_max, num_levels)  # stays on the host, where levels are drawn
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.seed = seed
        self.compile_network = compile
        self.val_loss = MeanMetric()
        self._drawn: tuple[Tensor | None, Tensor | None] = (None, None)  # the levels of this step: device, host

    def score_target(self, batch: Batch, x: Tensor, sigma: Tensor) -> Tensor:
        """The score that the network is to have at x; override this for a new scheme.

        Args:
            batch: the clean images μ, their rows and labels; `batch.image` is float in [0, 1] here.
            x: noisy images μ + σ ε [B, *S].
            sigma: noise levels [B].

        Returns:
            [B, *S]; here the denoising target (μ − x)/σ².
        """
        return (batch.image - x) / expand(sigma, x) ** 2

    def score(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        """The learned score s = −F(x[, σ])/σ.

        Args:
            x: noisy images [B, *S].
            sigma: noise level, a float or [B]; it turns F into a score also where the network is blind.

        Returns:
            [B, *S].
        """
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))
        return -cast(Tensor, self.network(x, sigma)).to(x.dtype) / expand(sigma, x)

    def loss(self, batch: Batch, sigma: Tensor, noise: Tensor, mirrored: Tensor | None = None) -> Tensor:
        """Loss of each sample.

        Args:
            batch: clean images.
            sigma: noise levels [B].
            noise: unit noise ε [B, *S].
            mirrored: bool [B], True where sample and target are mirrored left to right. Targets are equivariant, so
                this mirrors an image and its neighbors together.

        Returns:
            [B].
        """
        batch = batch._replace(image=to_unit(batch.image))
        x = batch.image + expand(sigma, noise) * noise
        with torch.autocast(x.device.type, enabled=False):  # the target's differences need float32
            target = self.score_target(batch, x, sigma)
        if mirrored is not None:
            mirrored = expand(mirrored, x)
            x, target = torch.where(mirrored, x.flip(-1), x), torch.where(mirrored, target.flip(-1), target)
        prediction: Tensor = self.network(x, sigma).float()  # F; σ cancels in σ² ‖−F/σ − target‖²
        error: Tensor = prediction + expand(sigma, x) * target
        return error.square().flatten(1).mean(1) / 2

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Draw noise levels and noise, and return the mean loss."""
        number = self._batch_number()
        host = torch.Generator().manual_seed(mix_seed(self.seed, number, 0))
        sigma_host = self.levels[torch.randint(len(self.levels), (len(batch.index),), generator=host)]
        sigma = sigma_host.to(self.device, non_blocking=True)
        self._drawn = (sigma, sigma_host)
        generator = torch.Generator(self.device).manual_seed(mix_seed(self.seed, number, 1))
        noise = torch.randn(batch.image.shape, device=self.device, generator=generator)
        mirrored = None
        if self.data.flip:
            mirrored = (torch.rand(len(sigma), generator=host) < 0.5).to(self.device, non_blocking=True)
        loss = self.loss(batch, sigma, noise, mirrored).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """The loss on held-out images, with noise that depends on the row alone: equal on any number of processes."""
        draws = [self._row_noise(row, batch.image.shape[1:]) for row in batch.index.tolist()]
        sigma = torch.stack([sigma for sigma, _ in draws]).to(self.device)
        noise = torch.stack([noise for _, noise in draws]).to(self.device)
        # Neighbors belong to training rows; held-out images are measured against their own denoising target.
        batch = batch._replace(image=to_unit(batch.image))
        prediction = self.network(batch.image + expand(sigma, noise) * noise, sigma).float()
        self.val_loss.update((prediction - noise).square().flatten(1).mean(1) / 2)
        self.log("val/loss", self.val_loss, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation."""
        self.validation_step(batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> None:
        """Nothing: the Generation callback draws the samples."""

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimizer, and a linear warm-up counted in steps."""
        optimizer = self.optimizer(self.parameters())
        warmup = LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(1, self.warmup_steps)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warmup, "interval": "step"}}

    def setup(self, stage: str) -> None:
        """Check that the network takes the data's images, and compile it for `fit` where that is asked for."""
        shape = self.image_shape
        wanted = getattr(self.network, "image_size", shape[-1]), getattr(self.network, "in_channels", shape[0])
        if wanted != (shape[-1], shape[0]):
            raise UserError(
                f"The network takes images of size {wanted[0]} with {wanted[1]} channels, but the data are {shape}: "
                "set model.init_args.network.init_args.image_size and data.init_args.image_size to the same value."
            )
        if stage == "fit" and self.compile_network:
            self.network.compile()  # in place: names of weights do not change

    @property
    def data(self) -> ImageDataModule:
        """The trainer's data module."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, ImageDataModule):
            raise UserError(
                f"{type(self).__name__} reads its images and neighbors from an ImageDataModule, but the trainer's "
                f"data module is {type(data).__name__}: pass one with trainer.fit(module, datamodule=…)."
            )
        return data

    @property
    def neighbors(self) -> NeighborStore:
        """The training images' neighbors, with their pixels on this module's device."""
        if self.data.neighbors is None:
            raise UserError(
                f"{type(self).__name__} needs the neighbors of every training image, but the data module has none: "
                "set data.init_args.k, for instance to 30."
            )
        return self.data.neighbors.to(self.device)

    @property
    def conditioned(self) -> bool:
        """Whether the network is told σ."""
        return bool(getattr(self.network, "conditioned", True))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of the data."""
        return self.data.image_shape

    def rows_at_most(self, sigma: Tensor, threshold: float) -> Tensor:
        """Positions [b] of the samples with σ ≤ threshold, on σ's device.

        For the levels just drawn in `training_step` they are known on the host, so no device is waited for.
        """
        drawn, host = self._drawn
        known = host if host is not None and sigma is drawn else sigma
        return (known <= threshold).nonzero().flatten().to(sigma.device, non_blocking=True)

    def _batch_number(self) -> int:
        """Counts batches over the whole training and all processes: encodes (step, rank)."""
        trainer = self.trainer
        return trainer.fit_loop.epoch_loop.total_batch_idx * trainer.world_size + trainer.global_rank

    def _row_noise(self, row: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, row, 2))
        level = torch.randint(len(self.levels), (), generator=generator)
        return self.levels[level], torch.randn(shape, generator=generator)


def to_unit(image: Tensor) -> Tensor:
    """Images as float in [0, 1]; uint8 means value/255."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def expand(values: Tensor, like: Tensor) -> Tensor:
    """[B] to [B, 1, …, 1], to multiply [B, *S]."""
    return values.view(-1, *[1] * (like.ndim - 1))


def mix_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers, without the collisions of sums and products."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_conditioned(network: nn.Module, wanted: bool, preset: str) -> None:
    """Raise `UserError` where a network says that it is not of the kind that a preset is named for."""
    if getattr(network, "conditioned", wanted) is not wanted:
        raise UserError(
            f"{preset} needs a network that is {'told the noise level' if wanted else 'blind'}, but "
            f"{type(network).__name__}.conditioned is {not wanted}: set network.init_args.conditioned to "
            f"{str(wanted).lower()}."
        )
