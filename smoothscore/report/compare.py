"""Measure the samples of several runs with one set of measures, beside held-out images as control."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from smoothscore.distances import decode
from smoothscore.functional import MemorizationReport
from smoothscore.metrics.memorization import memorization_figures
from smoothscore.neighbors import Pixels, extractor_name
from smoothscore.report.columns import columns
from smoothscore.report.measure import DataSet, MeasuredRun, measure_images, measure_runs
from smoothscore.report.rebuild import build_extractor
from smoothscore.report.runs import read_runs
from smoothscore.report.table import Row, Table, expansion_sigmas


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
    folders: Sequence[Path],
    *,
    extractor: nn.Module | None = None,
    device: torch.device | str = "cpu",
    sort: str | None = None,
) -> Comparison:
    """Read runs, measure their samples as in training, and set the figures side by side.

    Args:
        folders: run folders, each with config.yaml, metrics.csv and samples.npz.
        extractor: measure all runs in these features; None takes the one of their configurations, which must be one.
        device: where features and distances are computed.
        sort: key of a column that the runs are sorted by, the best first; None keeps the order given.

    Returns:
        A `Comparison`.

    Raises:
        UserError: no run, no such column, a folder that is no complete run, a configuration that cannot be built again,
            different extractors, or samples of another shape than the data.
    """
    runs = read_runs(folders)
    if extractor is None:
        extractor = build_extractor(runs) or Pixels()
    measured = measure_runs(runs, extractor, torch.device(device))
    name = extractor_name(extractor)
    num_features = measured[0].data.train_features.shape[1]
    table = _table_of_runs(measured, name)
    if sort is not None:
        table = table.sorted_by(sort)
        by_name = {one.run.name: one for one in measured}
        measured = [by_name[row.name] for row in table.rows]
    return Comparison(tuple(measured), name, num_features, _with_controls(table, measured, name, num_features))


def _table_of_runs(runs: Sequence[MeasuredRun], extractor: str) -> Table:
    sigmas = expansion_sigmas([name for measured in runs for name in measured.run.curves])
    rows = (Row(measured.run.name, _run_values(measured, extractor, sigmas)) for measured in runs)
    return Table(columns(extractor, sigmas), tuple(rows))


def _with_controls(table: Table, runs: Sequence[MeasuredRun], extractor: str, num_features: int) -> Table:
    rows = list(table.rows)
    data_sets = list(dict.fromkeys(measured.data for measured in runs))
    for data in data_sets:
        own = [measured for measured in runs if measured.data is data]
        names = f" (for {', '.join(measured.run.name for measured in own)})" if len(data_sets) > 1 else ""
        rows.append(Row(f"held-out images{names}", _control_values(own, extractor), control=True))
    return Table(table.columns, tuple(rows), tuple(_notes(runs, rows, extractor, num_features)))


def _run_values(measured: MeasuredRun, extractor: str, sigmas: Sequence[str]) -> dict[str, float | None]:
    run = measured.run
    return {
        **_memorization_values(measured.pixels, measured.features, extractor),
        **_logged_values(measured.figures, measured.intervals, extractor),
        **{f"expansion_{sigma}": run.last(f"expansion/network_{sigma}") for sigma in sigmas},
        "nfe": run.samples.nfe,
        "step_ms": run.last("train/step_ms"),
        "samples": len(run.samples.images),
    }


def _control_values(runs: Sequence[MeasuredRun], extractor: str) -> dict[str, float | None]:
    """Held-out images measured as if a model had drawn them."""
    data = runs[0].data
    pixels, features = runs[0].pixels.control, runs[0].features.control
    assert pixels is not None
    assert features is not None
    # As many as the runs have samples, where there are as many: most measures depend on their number. What compares
    # with held-out images is left blank, since it would compare them with themselves.
    count = min(len(measured.run.samples.images) for measured in runs)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(0)).to(data.test.device)
    figures, found, _, _ = measure_images(data.measures, decode(data.test[order[:count]]))
    of_train = (
        "frechet/train",
        "kernel/train",
        "authenticity/auth_pct",
        "authenticity/mifid",
        "diversity",
        "memorization",
    )
    figures = {name: value for name, value in figures.items() if name.startswith(of_train)}
    return {
        **_memorization_values(pixels, features, extractor),
        **_logged_values(figures, found, extractor),
        "samples": len(data.test),
    }


_LOGGED = {
    "memorization/calibrated": "calibrated",
    **{
        f"{group}_{{}}": f"{key}_{{}}"
        for group, key in {
            "frechet/train": "frechet_train",
            "frechet/test": "frechet_test",
            "frechet/ratio": "frechet_ratio",
            "kernel/train": "kernel_train",
            "kernel/test": "kernel_test",
            "authenticity/auth_pct": "auth_pct",
            "authenticity/c_t": "c_t",
            "authenticity/mifid": "mifid",
            "diversity/vendi": "vendi",
            **{f"copies/{name}": f"copies_{name}" for name in ("excess", "p_value", "label_p_value", "flagged")},
            **{f"prdc/{name}": name for name in ("precision", "recall", "density", "coverage")},
        }.items()
    },
}


def _logged_values(
    figures: dict[str, float], found: dict[str, tuple[float, float]], extractor: str
) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, key in ((name.format(extractor), key.format(extractor)) for name, key in _LOGGED.items()):
        if name in figures:
            values[key] = figures[name]
            if name in found:
                values[f"{key}_low"], values[f"{key}_high"] = found[name]
    return values


_MEMORIZED = {
    "fraction": "memorized",
    "low": "memorized_low",
    "high": "memorized_high",
    "difference": "excess",
    "difference_low": "excess_low",
    "difference_high": "excess_high",
    **{name: name for name in ("below_third", "below_half", "mean_ratio", "min_ratio")},
}


def _memorization_values(
    report: MemorizationReport, features: MemorizationReport, extractor: str
) -> dict[str, float | None]:
    figures = memorization_figures(report)
    values: dict[str, float | None] = {key: figures[name] for name, key in _MEMORIZED.items() if name in figures}
    if extractor != "pixels":
        key = f"memorized_{extractor}"
        values |= {key: features.fraction, f"{key}_low": features.interval[0], f"{key}_high": features.interval[1]}
    return values


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
                "against the training images, not 0: read the distance to train beside that, at equal numbers only."
            )
    if len({len(measured.run.samples.images) for measured in runs}) > 1:
        notes.append("The runs have different numbers of samples: their Fréchet distances are not comparable.")
    if len(data_sets) > 1:
        notes.append("The runs were trained on different images: read each beside its own held-out row.")
    if len({measured.run.samples.step for measured in runs}) > 1:
        steps = ", ".join(f"{measured.run.name} {measured.run.samples.step:,}" for measured in runs)
        notes.append(f"The samples were drawn after different numbers of steps: {steps}.")
    return notes
