"""Measure the samples of runs against the images they were trained on, with the measures of training."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from smoothscore.data import ImageDataModule, equal_reference_rows
from smoothscore.data.rebuild import build_data
from smoothscore.errors import UserError
from smoothscore.functional import MemorizationReport
from smoothscore.metrics import MEASURES, GeneratedImages
from smoothscore.neighbors import extract_features, extractor_name
from smoothscore.neighbors.digests import digest_tensor
from smoothscore.report.rebuild import data_key
from smoothscore.report.runs import Run
from smoothscore.report.uncertainty import intervals


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images that runs were trained on, made ready to measure against.

    Attributes:
        name: class of the data module.
        train: uint8 [M, C, H, W].
        test: uint8 [N, C, H, W], held out.
        train_features: float32 [M, F].
        reference_train: rows of train that the Fréchet distance compares with.
        reference_test: as many rows of test.
        measures: empty measures, references inside.
    """

    name: str
    train: Tensor
    test: Tensor
    train_features: Tensor
    reference_train: Tensor
    reference_test: Tensor
    measures: GeneratedImages


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """A run with everything that was measured on its samples.

    Attributes:
        run: what its folder holds.
        data: the images it was trained on; one object for all runs on the same images.
        figures: named as they are logged in training.
        intervals: 95 % intervals of the figures that have one, by the same names.
        pixels: nearest training images in pixels.
        features: nearest training images in features.
    """

    run: Run
    data: DataSet
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    pixels: MemorizationReport
    features: MemorizationReport


def measure_runs(runs: Sequence[Run], extractor: nn.Module, device: torch.device) -> list[MeasuredRun]:
    """Measure all runs; images, and their features, are prepared once for all runs on the same images.

    Raises:
        UserError: a configuration that cannot be built again, or samples of another shape than the data.
    """
    by_key: dict[str, DataSet] = {}
    by_digest: dict[str, DataSet] = {}
    measured = []
    for run in tqdm(runs, desc="measuring runs", unit="run", delay=2):
        key = data_key(run)
        if key not in by_key:
            module = build_data(run.config, run.folder / "config.yaml")
            digest = _digest(module)
            if digest not in by_digest:
                by_digest[digest] = _data_set(module, extractor, device)
            by_key[key] = by_digest[digest]
        measured.append(_measure(run, by_key[key]))
    return measured


def _digest(data: ImageDataModule) -> str:
    """Equal for equal images, whatever configuration they came by."""
    tensors = (tensor for images in (data.train, data.test) for tensor in (images.pixels, images.labels))
    return " ".join(map(digest_tensor, tensors))


def _data_set(data: ImageDataModule, extractor: nn.Module, device: torch.device) -> DataSet:
    def featurize(images: Tensor) -> Tensor:
        return extract_features(images, extractor, device=device).to(device)

    train, test = data.train.pixels.to(device), data.test.pixels.to(device)
    rows = equal_reference_rows(data.train.labels, data.test.labels)
    measures = GeneratedImages(
        train,
        test,
        featurize=featurize,
        name=extractor_name(extractor),
        reference_train=rows[0],
        reference_test=rows[1],
        measures=MEASURES,
    ).to(device)
    assert measures.train_features is not None
    return DataSet(type(data).__name__, train, test, measures.train_features, *rows, measures)


def _measure(run: Run, data: DataSet) -> MeasuredRun:
    images = run.samples.images
    if images.shape[1:] != data.train.shape[1:]:
        raise UserError(
            f"The samples of {run.name} have shape {list(images.shape[1:])}, but its images "
            f"{list(data.train.shape[1:])}: config.yaml and samples.npz are not of one run; draw the samples again."
        )
    try:
        return MeasuredRun(run, data, *measure_images(data.measures, images.to(data.train.device)))
    except UserError as error:
        raise UserError(f"{run.folder / 'samples.npz'} cannot be measured: {error}") from error


def measure_images(
    measures: GeneratedImages, images: Tensor
) -> tuple[dict[str, float], dict[str, tuple[float, float]], MemorizationReport, MemorizationReport]:
    """Figures and their intervals, and memorization in pixels and in features, of images as if a model had drawn them.

    Raises:
        UserError: what the measures refuse.
    """
    measures.reset()
    measures.update(images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The Fréchet distances")  # the table's notes say it
        figures = {name: float(value) for name, value in measures.compute().items()}
    found = intervals(measures, figures)
    assert measures.feature_memorization is not None
    reports = measures.memorization.report(), measures.feature_memorization.report()
    measures.reset()
    return figures, found, *reports
