"""Draw samples once per validation, look at them once, and feed every measure."""

import math
import time
from collections.abc import Sequence

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.callbacks.logger import log_image, run_folder
from smoothscore.callbacks.neighbors import keep_neighbors
from smoothscore.data import ImageDataModule, equal_reference_rows
from smoothscore.data.grid import image_grid, save_png
from smoothscore.data.samples import SampleSet
from smoothscore.errors import UserError
from smoothscore.metrics import MEASURES, QUICK, GeneratedImages
from smoothscore.metrics.features import check_measures
from smoothscore.modules import ScoreModule
from smoothscore.neighbors import Pixels, extract_features, extractor_name
from smoothscore.samplers import Sampler

_MOST_BYTES = 2**30  # of a covariance
_DRY_RUN = 4  # levels that a dry run walks, and images that it compares with


class Generation(Callback):
    """At the end of each validation, test or predict, draw images from the model and measure them.

    Image i is drawn from seed `seed` + i, so the images do not depend on the number of processes. They are kept in
    the run folder (`samples.npz`), with the nearest training image of each (`neighbors.csv`), and a picture shows the
    first of them above their nearest training images. Logged, by group:

    * memorization/…: share below d1/d2 < 2/3 with its 95 % interval, shares below 1/2 and 1/3, mean and smallest ratio,
      the same share of held-out images and the difference from it with its interval.
    * frechet/train_…, frechet/test_…, frechet/ratio_…, named for the extractor, against equally many reference images
      per class; frechet/bias_… where there are too few images for the number of features.
    * prdc/… (precision, recall, density, coverage, against held-out images) and kernel/… (to train and to test).
    * With "diversity": diversity/vendi_…. With "authenticity": authenticity/auth_pct_…, c_t_…, mifid_…, memorization
      among features and the calibrated distance; these need the features of all training images, once.

    A test measures everything, a validation what `measures` names.

    Args:
        sampler: how images are drawn; without noise levels of its own it walks those of the module.
        num_samples: images drawn.
        batch_size: images drawn at a time on each process.
        extractor: features of the Fréchet distances; None compares pixels.
        seed: of the first image.
        grid: images in the picture.
        every_n_validations: draw in every n-th validation only; the last one of a training always draws.
        measures: groups that a validation measures beside memorization and Fréchet distances, of "prdc", "kernel",
            "diversity" and "authenticity".

    Raises:
        UserError: fewer than two samples; an unknown measure; pixels compared where their covariance does not fit.
    """

    def __init__(
        self,
        sampler: Sampler,
        *,
        num_samples: int = 256,
        batch_size: int = 128,
        extractor: nn.Module | None = None,
        seed: int = 0,
        grid: int = 16,
        every_n_validations: int = 1,
        measures: Sequence[str] = QUICK,
    ) -> None:
        if num_samples < 2:
            raise UserError(
                f"Generation: num_samples is {num_samples}, but the measures need at least 2; 256 is small."
            )
        self.sampler = sampler
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.extractor = extractor if extractor is not None else Pixels()
        self.seed = seed
        self.grid = grid
        self.every_n_validations = every_n_validations
        check_measures(measures)
        self.measures = tuple(measures)
        self._validations = 0
        self._measures: GeneratedImages | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the features can be compared at all."""
        data = getattr(trainer, "datamodule", None)
        if isinstance(self.extractor, Pixels) and isinstance(data, ImageDataModule) and stage != "predict":
            dim = math.prod(data.image_shape)
            if 8 * dim**2 > _MOST_BYTES:
                raise UserError(
                    f"Generation: without an extractor the Fréchet distance compares pixels, whose covariance at {dim} "
                    f"values takes {8 * dim**2 / 2**30:.3g} GiB: set extractor, for instance to EfficientNetLite0."
                )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, measure, log."""
        if trainer.sanity_checking:
            return
        self._validations += 1
        last = trainer.global_step >= trainer.estimated_stepping_batches
        if last or self._validations % self.every_n_validations == 0:
            self._draw_and_measure(trainer, pl_module, self.measures)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw, measure everything, log."""
        self._draw_and_measure(trainer, pl_module, MEASURES)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw and keep the images; no measure."""
        module = _checked(pl_module)
        self._keep(trainer, module.data, self.draw(trainer, module))

    def draw(self, trainer: Trainer, module: ScoreModule) -> SampleSet:
        """All images, on every process, in the order of their seeds."""
        dry_run = getattr(trainer, "fast_dev_run", False)  # a look at every part, not at every image
        num_samples = min(self.num_samples, 2 * trainer.world_size) if dry_run else self.num_samples
        seeds = torch.arange(self.seed, self.seed + num_samples)
        own = seeds[trainer.global_rank :: trainer.world_size]
        sampler = self.sampler.bind(module.sigma_min, module.sigma_max, module.data.train.pixels)
        sampler = sampler.thinned(_DRY_RUN) if dry_run else sampler
        batches = torch.split(own, self.batch_size)
        start, parts = time.perf_counter(), []
        steps = None if sampler.num_steps is None else sampler.num_steps * len(batches)
        with tqdm(total=steps, desc="drawing samples", unit="step", disable=not trainer.is_global_zero) as bar:

            def advance(*_: object) -> None:
                bar.update()

            for batch in batches:
                shape = (len(batch), *module.image_shape)
                images = sampler.sample(module.score, shape, batch.tolist(), module.device, on_step=advance)
                parts.append(images)
        images = _gather_rows(trainer, torch.cat(parts).float(), num_samples)
        return SampleSet(images.cpu(), seeds, trainer.global_step, sampler.nfe, time.perf_counter() - start)

    def _draw_and_measure(self, trainer: Trainer, pl_module: LightningModule, names: Sequence[str]) -> None:
        module = _checked(pl_module)
        samples = self.draw(trainer, module)
        dry_run = bool(getattr(trainer, "fast_dev_run", False))
        start = time.perf_counter()
        measures = self._prepare(module, QUICK if dry_run else names, dry_run)
        measures.update(samples.images[trainer.global_rank :: trainer.world_size].to(module.device))
        figures = {name: value.float() for name, value in measures.compute().items()}
        report = measures.memorization.report()
        measures.reset()
        figures["generation/measuring_seconds"] = torch.tensor(time.perf_counter() - start)
        figures["generation/nfe"] = torch.tensor(float(samples.nfe))
        figures["generation/seconds"] = torch.tensor(samples.seconds)
        pl_module.log_dict(figures)
        if not dry_run:
            self._keep(trainer, module.data, samples)
            keep_neighbors(trainer, samples, report, module.data.train.pixels, most=self.grid)

    def _prepare(self, module: ScoreModule, names: Sequence[str], dry_run: bool) -> GeneratedImages:
        """The references, looked at once per run and set of measures."""
        if self._measures is None or set(self._measures.features.measures) != set(names):
            data, device = module.data, module.device
            rows = equal_reference_rows(data.train.labels, data.test.labels)
            if dry_run:
                rows = (rows[0][:_DRY_RUN], rows[1][:_DRY_RUN])
            self._measures = GeneratedImages(
                data.train.pixels.to(device),
                data.test.pixels.to(device),
                featurize=self._featurize,
                name=extractor_name(self.extractor),
                reference_train=rows[0],
                reference_test=rows[1],
                measures=names,
            ).to(device)
        return self._measures

    def _featurize(self, images: Tensor) -> Tensor:
        return extract_features(images, self.extractor, device=images.device, progress=False).to(images.device)

    def _keep(self, trainer: Trainer, data: ImageDataModule, samples: SampleSet) -> None:
        folder = run_folder(trainer)  # asked of every process, before only one of them goes on
        if not trainer.is_global_zero:
            return
        samples.save(folder / "samples.npz")
        picture = image_grid(samples.images[: self.grid], data.train.pixels)
        save_png(picture, folder / "grids" / f"step-{samples.step:08d}.png")
        log_image(trainer, "generation/grid", picture)


def _checked(pl_module: LightningModule) -> ScoreModule:
    if not isinstance(pl_module, ScoreModule):
        raise UserError(
            f"Generation draws from a ScoreModule, but the model is {type(pl_module).__name__}: derive it from "
            "smoothscore.modules.ScoreModule."
        )
    return pl_module


def _gather_rows(trainer: Trainer, own: Tensor, total: int) -> Tensor:
    """Rows [rank::world_size] of every process, back in one order; processes may hold one row more or less."""
    world_size = trainer.world_size
    if world_size == 1:
        return own
    padded = torch.cat([own, own.new_zeros(-(-total // world_size) - len(own), *own.shape[1:])])
    gathered = trainer.strategy.all_gather(padded)  # [world_size, rows, *S]
    return gathered.transpose(0, 1).flatten(0, 1)[:total]
