"""What every sampler does where the score is known: its moments, its order, and one training image (Sec. A.7)."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from smoothscore.errors import UserError
from smoothscore.experiments.base import Finding, Result, Row, check_positive, new_figure, paper_style
from smoothscore.experiments.mixtures import Mixture, normal_quantile
from smoothscore.experiments.single import on_residuals, residual_rows, walks_to_one
from smoothscore.samplers import ActualNoise, DPMSolver, Heun, PredictorCorrector, ProbabilityFlow, Sampler
from smoothscore.schedules import log_uniform

_COLUMNS = ("kind", "sampler", "steps", "nfe", "mean_error", "mean_error_exact", "covariance_error",
            "covariance_error_exact", "variance_ratio", "error", "order", "score", "step", "sigma", "beta",
            "sigma_star", "predicted")  # fmt: skip
_REPLICATES, _QUANTILE = 400, 0.99  # of exact draws, for what sampling alone does to the moments
_ORDERS = {"flow, Euler": 1, "Heun": 2, "multistep": 2}
_TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def samplers(
    halvings: tuple[int, ...] = (10, 20, 40, 80, 160, 320),
    *,
    dim: int = 64,
    components: int = 3,
    std: float = 0.1,
    num_samples: int = 1000,
    num_levels: int = 1000,
    sigma_min: float = 0.01,
    sigma_max: float = 50.0,
    snr: float = 0.05,
    center_dim: int = 3072,
    center_levels: int = 50,
    start_share: float = 0.2,
    seed: int = 0,
) -> Result:
    """Moments, order and stability of every sampler, on scores known in closed form.

    * moments: mean and covariance of samples of a Gaussian mixture with its exact score, against the 99 % quantile of
      the same errors of exact draws, and the variance about the nearest mean over τ².
    * order: the flow of the mixture from σ = 5 to 0.05 in float64, and how its error falls with the number of steps;
      the median over starts, since one between two components may go to either.
    * residual (A.7): one training image, from a start whose noise is `start_share` of what the schedule says. With its
      own blind score s = (μ − x)/σ*² and β_n = (σ_n² − σ_{n+1}²)/σ*_n² a step of the flow multiplies the residual by
      1 − β_n/2, and a step of the SDE σ*² by 1 − β_n + β_n² in expectation. Beside it the score of a blind network,
      s = −F/σ_n with F = (x − μ)/σ*.

    Args:
        halvings: steps of the flow, for the order; each at least 4.
        dim: d of the mixture.
        components: of the mixture, at random in the unit cube, with weights 1 : 2 : 3 …
        std: τ of every component.
        num_samples: for the moments.
        num_levels: noise levels of the samplers, equal in log σ, for the moments.
        sigma_min: lowest level.
        sigma_max: highest level.
        snr: of the Langevin corrector, for the moments; a finite one widens the law by 1/(1 − snr²).
        center_dim: d of the lone training image.
        center_levels: noise levels of its walks.
        start_share: noise of its start, of σ_max.
        seed: of mixture and noise.

    Raises:
        UserError: a number out of its range.

    Source: arXiv 2601.19285, Sec. 5 and A.7.
    """
    check_positive(components=components, std=std, snr=snr, start_share=start_share)
    for name, number, least in (("dim", dim, 2), ("num_samples", num_samples, 2), ("num_levels", num_levels, 2),
                                ("center_dim", center_dim, 3), ("center_levels", center_levels, 3)):  # fmt: skip
        if number < least:
            raise UserError(f"{name} is {number}, but it must be at least {least}.")
    if len(set(halvings)) < 2 or min(halvings) < 4:
        raise UserError(f"halvings is {list(halvings)}: an order shows from two numbers of steps on, each at least 4.")
    levels = log_uniform(sigma_min, sigma_max, num_levels)
    mixture = Mixture.random(components, dim, std, seed)
    rows = _moments(mixture, levels, num_samples, snr, seed)
    rows += _orders(mixture, sorted(set(halvings)), seed)
    walks = walks_to_one(log_uniform(sigma_min, sigma_max, center_levels), center_dim, start_share, seed)
    rows += [_row(**row) for row in residual_rows(walks)]
    findings = [*_on_moments(rows, num_samples * dim), *_on_orders(rows), *on_residuals(walks, sigma_min)]
    return Result("samplers", rows, findings, _figure(rows, center_levels, num_samples * dim))


def _row(**values: Any) -> Row:
    return dict.fromkeys(_COLUMNS) | values


def _walks(levels: Tensor, snr: float) -> Iterator[tuple[str, Sampler]]:
    for predictor in ("reverse_diffusion", "ancestral", "euler_maruyama"):
        yield predictor.replace("_", " "), PredictorCorrector(levels, predictor=predictor, corrector_steps=0)
    yield "SDE (PC)", PredictorCorrector(levels, snr=snr)
    yield "ODE (PC)", PredictorCorrector(levels, predictor="probability_flow", snr=snr)
    yield (
        "annealed Langevin",
        PredictorCorrector(levels, predictor="none", corrector="annealed_langevin", corrector_steps=4),
    )
    yield "flow, Euler", ProbabilityFlow(levels)
    yield "flow, rk45", ProbabilityFlow(levels, method="rk45")
    yield "Heun", Heun(levels)
    yield "multistep", DPMSolver(levels)
    top = float(levels[-1])
    for churn in (0.0, 1.0):
        name = "actual noise, churn" if churn else "actual noise"
        yield name, ActualNoise(steps=len(levels), noise="score", sigma_max=top, churn=churn)


def _moments(mixture: Mixture, levels: Tensor, count: int, snr: float, seed: int) -> list[Row]:
    exact = mixture.sampling_error(count, _REPLICATES, _QUANTILE, seed)
    rows, walks = [], dict(_walks(levels, snr))
    for name, sampler in tqdm(walks.items(), desc="moments", unit="sampler"):
        x = sampler.sample(mixture, (count, mixture.means.shape[1]), seeds=range(seed, seed + count))
        mean, covariance, ratio = mixture.errors(x)
        rows.append(
            _row(
                kind="moments",
                sampler=name,
                steps=len(levels),
                nfe=sampler.nfe,
                mean_error=mean,
                mean_error_exact=exact[0],
                covariance_error=covariance,
                covariance_error_exact=exact[1],
                variance_ratio=ratio,
            )
        )
    return rows


def _orders(mixture: Mixture, halvings: Sequence[int], seed: int) -> list[Row]:
    generator = torch.Generator().manual_seed(seed)
    high, low = 5.0, 0.05
    start = mixture.draw(32, generator)
    start = start + high * torch.randn(start.shape, generator=generator, dtype=torch.float64)

    def reached(sampler: Sampler) -> Tensor:
        """Return x at the lowest level: the step from there to σ = 0 is the same for all."""
        states: list[Tensor] = []
        sampler.sample(
            mixture, start.shape, [0] * len(start), start=start, on_step=lambda _, step: states.append(step.x)
        )
        return states[-2]

    makers: dict[str, Callable[[Tensor], Sampler]] = {
        "flow, Euler": ProbabilityFlow, "Heun": Heun, "multistep": DPMSolver
    }  # fmt: skip
    exact = reached(ProbabilityFlow([low, high], method="rk45", rtol=1e-11, atol=1e-11))
    rows: list[Row] = []
    for name, make in tqdm(makers.items(), desc="order", unit="sampler"):
        before: float | None = None
        for steps in halvings:
            sampler = make(log_uniform(low, high, steps + 1).double())
            error = float((reached(sampler) - exact).square().mean(1).sqrt().median())
            order = None if before is None else math.log(before / error) / math.log(steps / rows[-1]["steps"])
            rows.append(_row(kind="order", sampler=name, steps=steps, nfe=sampler.nfe - 1, error=error, order=order))
            before = error
    for tolerance in _TOLERANCES:
        sampler = ProbabilityFlow([low, high], method="rk45", rtol=tolerance, atol=tolerance)
        error = float((reached(sampler) - exact).square().mean(1).sqrt().median())
        rows.append(_row(kind="order", sampler="flow, rk45", nfe=sampler.nfe - 1, error=error))
    return rows


def _on_moments(rows: list[Row], values: int) -> list[Finding]:
    part = [row for row in rows if row["kind"] == "moments"]
    off = {
        row["sampler"]: f"{row['mean_error']:.3g} and {row['covariance_error']:.3g}"
        for row in part
        if row["mean_error"] > row["mean_error_exact"] or row["covariance_error"] > row["covariance_error_exact"]
    }
    limits = f"{part[0]['mean_error_exact']:.3g} and {part[0]['covariance_error_exact']:.3g}"
    worst = max(part, key=lambda row: abs(float(row["variance_ratio"]) - 1))
    ratios = ", ".join(f"{row['sampler']} {row['variance_ratio']:.4f}" for row in part)
    return [
        Finding(
            f"mean and covariance are within the {_QUANTILE:.0%} quantile of exact draws for each of {len(part)}",
            f"limits {limits}; beyond them: {', '.join(f'{name} {text}' for name, text in off.items()) or 'none'}",
            not off,
        ),
        Finding(
            f"variance about the nearest mean over τ²; exact draws give 1 ± {math.sqrt(2 / values):.4f}",
            f"farthest is {worst['sampler']}; {ratios}",
        ),
    ]


def _on_orders(rows: list[Row]) -> list[Finding]:
    findings = []
    for name, order in _ORDERS.items():
        orders = [row["order"] for row in rows if row["kind"] == "order" and row["sampler"] == name and row["order"]]
        found = ", ".join(f"{value:.2f}" for value in orders)
        findings.append(Finding(f"{name} converges with order {order}", found, abs(orders[-1] - order) < 0.25))
    return findings


@paper_style()
def _figure(rows: list[Row], center_levels: int, num_values: int) -> Figure:
    figure, ((moments, order), (exact, network)) = new_figure(2, 2, height=2.6)
    part = [row for row in rows if row["kind"] == "moments"]
    place = np.arange(len(part))
    chance = normal_quantile(_QUANTILE) * math.sqrt(2 / num_values)
    moments.axvspan(1 - chance, 1 + chance, color="0.88")
    moments.axvline(1, color="0.5", linewidth=0.8)
    moments.plot([row["variance_ratio"] for row in part], place, "o")
    moments.set_yticks(place, [row["sampler"] for row in part])
    moments.invert_yaxis()
    moments.set(title="variance of samples over τ²; gray: exact draws, 99 %")
    for name, marker in (("flow, Euler", "o"), ("Heun", "s"), ("multistep", "^"), ("flow, rk45", "D")):
        part = [row for row in rows if row["kind"] == "order" and row["sampler"] == name]
        order.plot([row["nfe"] for row in part], [row["error"] for row in part], marker + "-", label=name)
    order.set(xscale="log", yscale="log", xlabel="calls of the score", title="error of the flow at σ = 0.05")
    order.legend()
    for axis, form, title in ((exact, "exact", "exact blind score"), (network, "network", "blind network, s = −F/σ")):
        part = [row for row in rows if row["score"] == form]
        names = list(dict.fromkeys(row["sampler"] for row in part))
        for number, name in enumerate(names):
            steps = [row for row in part if row["sampler"] == name]
            dashed: dict[str, Any] = {"linestyle": (0, (3, 3)), "zorder": 3} if name == "actual noise, search" else {}
            color, star = f"C{number}", [row["sigma_star"] for row in steps]
            axis.plot([row["step"] for row in steps], star, color=color, label=name, **dashed)
            told = [row for row in steps if row["predicted"]][::4]
            axis.plot([row["step"] for row in told], [row["predicted"] for row in told], "x", color=color)
        steps = [row for row in part if row["sampler"] == "SDE"][:-1]
        axis.plot([row["step"] for row in steps], [row["sigma"] for row in steps], ":", color="0.5", label="schedule")
        axis.set(yscale="log", xlabel="step", ylabel="σ*", title=f"one image, {title}", xlim=(0, center_levels))
    network.set_ylim(top=1e5)
    network.legend(loc="upper right", ncols=2)
    return figure
