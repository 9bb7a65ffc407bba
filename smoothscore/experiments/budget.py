"""What a number of evaluations buys: Fréchet distance and memorization by sampler, and σ* without a search (Sec. 5)."""

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from smoothscore.data import ImageDataModule
from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, new_figure, paper_style
from smoothscore.experiments.draws import RECOMMENDED, REFERENCE, SAMPLERS, draw, open_measures, open_model
from smoothscore.experiments.estimates import estimate_rows, on_estimates
from smoothscore.neighbors import EfficientNetLite0
from smoothscore.samplers.watch import NotFiniteError

_COLUMNS = ("kind", "sampler", "budget", "nfe", "frechet_train", "frechet_test", "memorized", "memorized_low",
            "memorized_high", "failed", "images", "sigma", "spread", "searched", "projected", "searched_error",
            "projected_error", "network_ms", "projected_ms", "searched_ms")  # fmt: skip
_WITHIN = 1.05  # of the reference's Fréchet distance
_FLOWS = ("flow, Euler", "flow, rk45", "Heun", "multistep")


def budget(
    budgets: tuple[int, ...] = (5, 10, 20, 50),
    *,
    checkpoint: str | None = None,
    data: ImageDataModule | None = None,
    names: tuple[str, ...] = tuple(SAMPLERS),
    reference: int = 1000,
    goal: int = 50,
    num_samples: int = 64,
    extractor: nn.Module | None = None,
    keep: str | None = None,
    seed: int = 0,
) -> Result:
    """Fréchet distance and memorized share against the number of evaluations, for every sampler.

    Without a checkpoint the score is that of an ideal blind network, s = −F/σ with F in the direction of the training
    set's own unconditioned score and of unit size. Samplers that warn of a blind score are run all the same; one that
    leaves the finite numbers is a row that says where. Then the noise of noised images is estimated, by the score's
    direction and by a search of the training images.

    Args:
        budgets: evaluations, each at least 4; a sampler of several per level takes the next smaller number of whole
            levels, two at least, and rk45 what the tolerance (18/budget)³ asks for. The column nfe says what was taken.
        checkpoint: a trained network.
        data: training images and held-out ones; the checkpoint's own, or 60 emoji at 16×16, by default.
        names: of the samplers; all of them by default.
        reference: evaluations of the predictor-corrector that the others are compared with; 0 for no comparison.
        goal: evaluations at which they are compared.
        num_samples: images per row, at least 2.
        extractor: of features for the Fréchet distances; EfficientNetLite0 at 96 pixels, not normalized, by default.
        keep: folder where samples are kept, so that a study that was killed goes on, and a wider one reads them.
        seed: of the first sample.

    Raises:
        UserError: a number out of its range, an unknown sampler, a checkpoint that cannot be opened or takes other
            images, or a folder with samples of something else.

    Source: arXiv 2601.19285, Sec. 5, Table 1 and B.4.3.
    """
    check_positive(budgets=budgets)
    compared = [] if reference == 0 else [reference, goal]
    if min(*budgets, *compared, 2**31) < 4:
        raise UserError(f"{min(*budgets, *compared, 2**31)} evaluations are too few for two levels: give 4 or more.")
    if num_samples < 2:
        raise UserError(f"num_samples is {num_samples}, but a Fréchet distance needs at least 2; 256 is small.")
    for name in names:
        if name not in SAMPLERS:
            raise UserError(f'names: there is no sampler "{name}"; choose among {"; ".join(SAMPLERS)}.')
    model = open_model(checkpoint, data)
    measures = open_measures(model.data, extractor or EfficientNetLite0(resize=96, normalize=False))
    plan = {(name, number) for name in names for number in {*budgets, *compared[1:]}}
    if reference:
        plan.add((REFERENCE, reference))
    rows: list[Row] = []
    with TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* steps by its schedule alone", category=UserWarning)
        for name, number in sorted(plan, key=lambda pair: (list(SAMPLERS).index(pair[0]), pair[1])):
            row = {"kind": "budget", "sampler": name, "budget": number}
            try:
                images, nfe = draw(model, name, number, Path(keep or scratch), num_samples, seed)
            except NotFiniteError as error:
                rows.append(_row(**row, failed=str(error)))
                continue
            measures.update(images)
            figures, report = measures.compute(), measures.memorization.report()
            measures.reset()
            distances = {
                f"frechet_{side}": float(figures[f"frechet/{side}_{measures.name}"]) for side in ("train", "test")
            }
            low, high = report.interval
            rows.append(
                _row(**row, nfe=nfe, memorized=report.fraction, memorized_low=low, memorized_high=high, **distances)
            )
    found = estimate_rows(model.score, model.data, model.sigma_min, model.sigma_max, seed)
    estimates = [_row(**row) for row in found]
    findings = [*_on_goal(rows, goal, reference), *on_estimates(estimates)]
    return Result("budget", [*rows, *estimates], findings, _figure(rows, estimates, reference, measures.name))


def _row(**values: Any) -> Row:
    return dict.fromkeys(_COLUMNS) | values


def _at(rows: list[Row], name: str, number: int) -> Row | None:
    return next((row for row in rows if row["sampler"] == name and row["budget"] == number), None)


def _on_goal(rows: list[Row], goal: int, reference: int) -> list[Finding]:
    base = _at(rows, REFERENCE, reference)
    if base is None or base["frechet_test"] is None:
        return []
    limit, findings = _WITHIN * base["frechet_test"], []
    mine = _at(rows, RECOMMENDED, goal)
    if mine is not None and mine["frechet_test"] is not None:
        findings.append(
            Finding(
                f"{RECOMMENDED}, without a search, is at {goal} evaluations within 5 % of the Fréchet distance of "
                f"{REFERENCE} at {reference}",
                f"{mine['frechet_test']:.4g} against {base['frechet_test']:.4g} to held-out images, "
                f"{mine['frechet_test'] / base['frechet_test'] - 1:+.1%}; memorized {mine['memorized']:.1%} against "
                f"{base['memorized']:.1%}",
                bool(mine["frechet_test"] <= limit),
            )
        )
    flows = {name: row for name in _FLOWS if (row := _at(rows, name, goal)) is not None}
    if flows:
        words = [
            f"{name} {'left the finite numbers' if row['failed'] else format(row['frechet_test'], '.4g')}"
            for name, row in flows.items()
        ]
        findings.append(
            Finding(
                f"a plain flow fails with a blind score (Sec. 5): at {goal} evaluations no one is within 5 % of it",
                ", ".join(words),
                all(row["failed"] is not None or row["frechet_test"] > limit for row in flows.values()),
            )
        )
    return findings


_MARKS = ("o", "s", "^", "D", "v", "P", "X")


@paper_style()
def _figure(rows: list[Row], estimates: list[Row], reference: int, features: str) -> Figure:
    figure, ((distance, share, estimate),) = new_figure(3, height=3.6, width=11)
    for number, name in enumerate(dict.fromkeys(row["sampler"] for row in rows)):
        part = [row for row in rows if row["sampler"] == name and row["failed"] is None]
        style = {
            "color": f"C{number % 7}",
            "marker": _MARKS[number % 7],
            "linestyle": ("-", "--", ":")[number // 7 % 3],
        }
        nfe = [row["nfe"] for row in part]
        distance.plot(nfe, [row["frechet_test"] for row in part], label=name, **style)
        share.plot(nfe, [row["memorized"] for row in part], **style)
    base = _at(rows, REFERENCE, reference)
    if base is not None and base["frechet_test"] is not None:
        band = base["frechet_test"], _WITHIN * base["frechet_test"]
        distance.axhspan(*band, color="0.85", zorder=0, label=f"5 % above {REFERENCE} at {reference}")
        distance.axhline(base["frechet_test"], color="0.5", linewidth=0.8, zorder=0)
    distance.set(
        xscale="log", yscale="log", xlabel="evaluations", title=f"Fréchet distance to held-out images ({features})"
    )
    share.set(xscale="log", xlabel="evaluations", title="memorized share")
    for axis in (distance, share):
        axis.set_xticks(ticks := sorted({row["budget"] for row in rows}), [str(tick) for tick in ticks])
        axis.minorticks_off()
    distance.yaxis.set_major_formatter("{x:.0f}")
    distance.yaxis.set_major_locator(MaxNLocator(6))
    for images, line in (("training", "-"), ("held-out", "--")):
        part = [row for row in estimates if row["images"] == images]
        for by, color, label in (("searched", "C0", "search"), ("projected", "C1", "score")):
            ratio = [row[by] / row["sigma"] for row in part]
            estimate.plot([row["sigma"] for row in part], ratio, line, color=color, label=f"{label}, {images}")
    estimate.axvline(estimates[0]["spread"], color="0.5", linestyle=":", linewidth=0.8, label="images' spread")
    estimate.set(xscale="log", yscale="log", xlabel="σ", title="estimated noise level over σ, median")
    estimate.legend()
    figure.legend(*distance.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
