"""Measure the samples of several runs with one set of measures, beside held-out images as control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from smoothscore.distances import decode
from smoothscore.functional import MemorizationReport
from smoothscore.neighbors import Pixels, extractor_name
from smoothscore.report.measure import DataSet, MeasuredRun, measure_runs
from smoothscore.report.rebuild import build_extractor
from smoothscore.report.runs import read_runs
from smoothscore.report.table import Column, Row, Table, expansion_sigmas


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several runs, measured alike.

    Attributes:
        runs: in the order given.
        extractor: name of the feature space.
        num_features: F.
        table: all figures, with a row of held-out images for each data set.
    """

    runs: tuple[MeasuredRun, ...]
    extractor: str
    num_features: int
    table: Table

    @property
    def data_sets(self) -> list[DataSet]:
        """The different data sets, in the order of the runs."""
        return list(dict.fromkeys(measured.data for measured in self.runs))


def compare_runs(
    folders: Sequence[Path], *, extractor: nn.Module | None = None, device: torch.device | str = "cpu"
) -> Comparison:
    """Read runs, measure their samples as in training, and set the figures side by side.

    Args:
        folders: run folders, each with config.yaml, metrics.csv and samples.npz.
        extractor: measure all runs in these features; None takes the one of their configurations, which must be one.
        device: where features and distances are computed.

    Returns:
        A `Comparison`.

    Raises:
        UserError: no run, a folder that is no complete run, a configuration that cannot be built again, different
            extractors, or samples of another shape than the data.
    """
    runs = read_runs(folders)
    if extractor is None:
        extractor = build_extractor(runs) or Pixels()
    measured = measure_runs(runs, extractor, torch.device(device))
    name = extractor_name(extractor)
    num_features = measured[0].data.train_features.shape[1]
    return Comparison(tuple(measured), name, num_features, _table(measured, name, num_features))


def _table(runs: Sequence[MeasuredRun], extractor: str, num_features: int) -> Table:
    sigmas = expansion_sigmas([name for measured in runs for name in measured.run.curves])
    columns = (
        Column("memorized", "memorized", style="percent", interval=True),
        Column("below_third", "< 1/3", "ratio d₁/d₂", style="percent"),
        Column("mean_ratio", "mean", "ratio d₁/d₂", style="ratio"),
        Column("min_ratio", "min", "ratio d₁/d₂", style="ratio"),
        Column(f"frechet_train_{extractor}", f"FD-train ({extractor})"),
        Column(f"frechet_test_{extractor}", f"FD-test ({extractor})"),
        *(Column(f"expansion_{sigma}", f"σ = {sigma}", "expansion ratio") for sigma in sigmas),
        Column("nfe", "NFE", style="integer"),
        Column("step_ms", "ms per step", style="milliseconds"),
        Column("samples", "samples", style="integer", shown=False),
    )
    rows = [Row(measured.run.name, _run_values(measured, extractor, sigmas)) for measured in runs]
    data_sets = list(dict.fromkeys(measured.data for measured in runs))
    for data in data_sets:
        own = [measured for measured in runs if measured.data is data]
        names = f" (for {', '.join(measured.run.name for measured in own)})" if len(data_sets) > 1 else ""
        rows.append(Row(f"held-out images{names}", _control_values(own, extractor), control=True))
    return Table(columns, tuple(rows), tuple(_notes(runs, rows, extractor, num_features)))


def _run_values(measured: MeasuredRun, extractor: str, sigmas: Sequence[str]) -> dict[str, float | None]:
    run = measured.run
    return {
        **_memorization_values(measured.pixels),
        f"frechet_train_{extractor}": measured.figures[f"frechet/train_{extractor}"],
        f"frechet_test_{extractor}": measured.figures[f"frechet/test_{extractor}"],
        **{f"expansion_{sigma}": run.last(f"expansion/network_{sigma}") for sigma in sigmas},
        "nfe": run.samples.nfe,
        "step_ms": run.last("train/step_ms"),
        "samples": len(run.samples.images),
    }


def _control_values(runs: Sequence[MeasuredRun], extractor: str) -> dict[str, float | None]:
    """Held-out images measured as if a model had drawn them."""
    data = runs[0].data
    assert runs[0].pixels.control is not None
    # As many as the runs have samples, where there are as many: the distance depends on their number. The distance to
    # held-out images is left blank, since it would compare them with themselves.
    count = min(len(measured.run.samples.images) for measured in runs)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0))
    data.measures.update(decode(data.test[order[:count]]))
    frechet = float(data.measures.compute()[f"frechet/train_{extractor}"])
    data.measures.reset()
    return {
        **_memorization_values(runs[0].pixels.control),
        f"frechet_train_{extractor}": frechet,
        "samples": len(data.test),
    }


def _memorization_values(report: MemorizationReport) -> dict[str, float | None]:
    return {
        "memorized": report.fraction,
        "memorized_low": report.interval[0],
        "memorized_high": report.interval[1],
        "below_third": report.counts[0] / len(report.ratio),
        "mean_ratio": report.mean,
        "min_ratio": report.minimum,
    }


def _notes(runs: Sequence[MeasuredRun], rows: Sequence[Row], extractor: str, num_features: int) -> list[str]:
    notes = []
    controls = iter(row for row in rows if row.control)
    data_sets = list(dict.fromkeys(measured.data for measured in runs))
    for data in data_sets:
        samples = min(len(measured.run.samples.images) for measured in runs if measured.data is data)
        control = next(controls)
        references = len(data.reference_train)
        if min(samples, references) <= num_features:
            floor = control.values[f"frechet_train_{extractor}"]
            count = min(samples, len(data.test))
            notes.append(
                f"The Fréchet distances are biased upwards: {extractor} has {num_features:,} features, but there are "
                f"only {samples:,} samples and {references:,} reference images on each side, so covariances are "
                f"singular. {count:,} real {control.name}, which a perfect model could have drawn, score {floor:.3g} "
                "against the training images, not 0: read FD-train beside that, at equal numbers only."
            )
    if len({len(measured.run.samples.images) for measured in runs}) > 1:
        notes.append("The runs have different numbers of samples: their Fréchet distances are not comparable.")
    if len(data_sets) > 1:
        notes.append("The runs were trained on different images: read each beside its own held-out row.")
    if len({measured.run.samples.step for measured in runs}) > 1:
        steps = ", ".join(f"{measured.run.name} {measured.run.samples.step:,}" for measured in runs)
        notes.append(f"The samples were drawn after different numbers of steps: {steps}.")
    return notes
