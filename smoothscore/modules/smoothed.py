"""Temperature smoothing: a tempered average over neighbors in place of the denoising target."""

from typing import Any

import torch
from torch import Tensor, nn

from smoothscore.data import Batch
from smoothscore.errors import UserError
from smoothscore.modules.base import ScoreModule
from smoothscore.schedules import CollapseTemperature, Temperature
from smoothscore.score import smoothed_target
from smoothscore.score.smoothed import Scale


class TemperatureSmoothed(ScoreModule):
    """At σ ≤ σ_collapse the target is the tempered score over the K neighbors of the clean image, else denoising.

    The neighbors come from the data module (`k`, `extractor`, `radius`), found before training. The preset of the
    paper is blind; a conditioned network works too.

    Args:
        network: any score network.
        temperature: T as a function of σ; None is the paper's max(σ_collapse/σ, 1).
        sigma_collapse: the target is smoothed at and below this noise level.
        scale: "optimal" divides each neighbor's difference by its own σ*² (Eq. 10), "scheduled" by the sample's σ²:
            the first mostly shrinks the score, the second moves the denoised mean toward the blend.
        per_center: evaluate the temperature at each center's own σ*, as the paper's text has it.
        options: those of `ScoreModule`.

    Raises:
        UserError: σ_collapse ≤ 0; in `setup`, a data module without neighbors.

    Source: arXiv 2601.19285, Eq. (10) and (11).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        temperature: Temperature | None = None,
        sigma_collapse: float = 5.0,
        scale: Scale = "optimal",
        per_center: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if scale not in ("optimal", "scheduled"):
            raise UserError(f'scale is "{scale}"; it must be "optimal" (Eq. 10) or "scheduled".')
        paper_temperature = CollapseTemperature(sigma_collapse)  # checks sigma_collapse in any case
        self.temperature: Temperature = paper_temperature if temperature is None else temperature
        self.sigma_collapse = sigma_collapse
        self.scale = scale
        self.per_center = per_center
        self._gathered: Tensor | None = None

    def score_target(self, batch: Batch, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoising above σ_collapse, the tempered score over the neighbors at and below it."""
        target = super().score_target(batch, x, sigma)
        low = self.rows_at_most(sigma, self.sigma_collapse)
        if len(low):
            index, sigma = batch.index[low], sigma[low]
            target[low] = smoothed_target(
                x[low],
                self.neighbors.images(index, out=self._buffer(len(x), x.device)[: len(low)]),
                sigma,
                temperature=self.temperature if self.per_center else self.temperature(sigma),
                scale=self.scale,
                mask=self.neighbors.mask(index),
            )
        return target

    def _buffer(self, batch: int, device: torch.device) -> Tensor:
        """Memory [B, K, *S] for the neighbors, kept from step to step: fresh pages cost more than the gather."""
        shape = (batch, self.neighbors.k, *self.neighbors.image_shape)
        if self._gathered is None or self._gathered.shape != shape or self._gathered.device != device:
            self._gathered = torch.empty(shape, device=device)
        return self._gathered

    def setup(self, stage: str) -> None:
        """Check the images and the neighbors, and give the temperature the images' dimension."""
        super().setup(stage)
        self.temperature = self.temperature.bind(self.data.train.pixels[0].numel())
        if stage == "fit":
            _ = self.neighbors  # an error before training starts
