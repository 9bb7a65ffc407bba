"""Temperature smoothing: a tempered average over neighbors in place of the denoising target."""

from typing import Any

import torch
from torch import Tensor, nn

from smoothscore.data import Batch
from smoothscore.errors import UserError
from smoothscore.modules.base import ScoreModule
from smoothscore.neighbors import NeighborStore
from smoothscore.schedules import CollapseTemperature, EffectiveNeighbors, Temperature
from smoothscore.score import smoothed_target
from smoothscore.score.effective import check_numbers
from smoothscore.score.smoothed import Scale


class TemperatureSmoothed(ScoreModule):
    """At σ ≤ σ_collapse the target is the tempered score over the K neighbors of the clean image, else denoising.

    The neighbors come from the data module (`k`, `extractor`, `radius`), found before training. The preset of the
    paper is blind; a conditioned network works too.

    Args:
        network: any score network.
        temperature: T as a function of σ, or `EffectiveNeighbors`, the T of each sample at which n neighbors speak;
            None is the paper's max(σ_collapse/σ, 1). At levels with n = 1 the target is the denoising one.
        sigma_collapse: the target is smoothed at and below this noise level.
        scale: "optimal" divides each neighbor's difference by its own σ*² (Eq. 10), "scheduled" by the sample's σ²:
            the first mostly shrinks the score, the second moves the denoised mean toward the blend.
        per_center: evaluate the temperature at each center's own σ*, as the paper's text has it.
        options: those of `ScoreModule`.

    Raises:
        UserError: σ_collapse ≤ 0, per_center with `EffectiveNeighbors`; in `setup`, a data module without neighbors,
            or with fewer of any image than are to speak.

    Source: arXiv 2601.19285, Eq. (10) and (11).
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        temperature: Temperature | EffectiveNeighbors | None = None,
        sigma_collapse: float = 5.0,
        scale: Scale = "optimal",
        per_center: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, **options)
        if scale not in ("optimal", "scheduled"):
            raise UserError(f'scale is "{scale}"; it must be "optimal" (Eq. 10) or "scheduled".')
        if per_center and isinstance(temperature, EffectiveNeighbors):
            raise UserError("per_center takes T at each center's own σ*, but EffectiveNeighbors sets one T: drop one.")
        paper_temperature = CollapseTemperature(sigma_collapse)  # checks sigma_collapse in any case
        self.temperature: Temperature | EffectiveNeighbors = paper_temperature if temperature is None else temperature
        self.sigma_collapse = sigma_collapse
        self.scale = scale
        self.per_center = per_center
        self._smoothed_up_to = sigma_collapse
        self._number_of_image: Tensor | None = None
        self._gathered: Tensor | None = None

    def score_target(self, batch: Batch, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoising above σ_collapse, the tempered score over the neighbors at and below it."""
        target = super().score_target(batch, x, sigma)
        low = self.rows_at_most(sigma, self._smoothed_up_to)
        if len(low):
            index, sigma = batch.index[low], sigma[low]
            target[low] = smoothed_target(
                x[low],
                self.neighbors.images(index, out=self._buffer(len(x), x.device)[: len(low)]),
                sigma,
                temperature=self._temperature_at(sigma, index),
                scale=self.scale,
                mask=self.neighbors.mask(index),
            )
        return target

    def _temperature_at(self, sigma: Tensor, index: Tensor) -> Tensor | Temperature | EffectiveNeighbors:
        """What `smoothed_target` takes for samples of training images `index` [b] at noise levels [b]."""
        if isinstance(self.temperature, EffectiveNeighbors):
            if self._number_of_image is None:
                return self.temperature
            self._number_of_image = self._number_of_image.to(index.device)
            return EffectiveNeighbors(self._number_of_image[index], fade=self.temperature.fade)
        return self.temperature if self.per_center else self.temperature(sigma)

    def _buffer(self, batch: int, device: torch.device) -> Tensor:
        """Memory [B, K, *S] for the neighbors, kept from step to step: fresh pages cost more than the gather."""
        shape = (batch, self.neighbors.k, *self.neighbors.image_shape)
        if self._gathered is None or self._gathered.shape != shape or self._gathered.device != device:
            self._gathered = torch.empty(shape, device=device)
        return self._gathered

    def setup(self, stage: str) -> None:
        """Check the images and the neighbors, and give the temperature the images' dimension."""
        super().setup(stage)
        if isinstance(self.temperature, Temperature):
            self.temperature = self.temperature.bind(self.data.train.pixels[0].numel())
        if stage == "fit":
            neighbors = self.neighbors  # an error before training starts
            if isinstance(self.temperature, EffectiveNeighbors):
                self._prepare(self.temperature, neighbors)

    def _prepare(self, rule: EffectiveNeighbors, neighbors: NeighborStore) -> None:
        """Check n at every level and for every image, and find the levels at which it is above 1."""
        table = self.data.table
        assert table is not None
        levels = self.levels[self.levels <= self.sigma_collapse]
        if not len(levels):
            return
        mask = neighbors.mask(torch.arange(len(table), device=self.device))
        width = torch.full((len(table),), table.k) if mask is None else mask.sum(1).cpu()
        self._number_of_image = rule.of_images(table.distances, self.data.train.labels)
        if self._number_of_image is None:
            number = rule.number(levels)
            check_numbers(number, torch.full_like(number, table.k), of="noise level")
            check_numbers(number.amax().expand(len(width)), width, of="training image")
        else:
            check_numbers(self._number_of_image, width, of="training image")
            number = EffectiveNeighbors(float(self._number_of_image.amax()), fade=rule.fade).number(levels)
        smoothed = levels[number > 1]
        self._smoothed_up_to = float(smoothed[-1]) if len(smoothed) else 0.0
