"""The paper's numerical experiments: each returns a table, a figure, and what was predicted of them."""

from collections.abc import Callable

from smoothscore.experiments.advise import advise
from smoothscore.experiments.base import Finding, Result
from smoothscore.experiments.budget import budget
from smoothscore.experiments.collapse import collapse
from smoothscore.experiments.cosine import cosine
from smoothscore.experiments.cost import cost
from smoothscore.experiments.dense import dense
from smoothscore.experiments.domination import domination
from smoothscore.experiments.expansion import expansion
from smoothscore.experiments.jacobian import jacobian
from smoothscore.experiments.planted import planted
from smoothscore.experiments.samplers import samplers
from smoothscore.experiments.shells import shells
from smoothscore.experiments.split import split
from smoothscore.experiments.trajectories import trajectories

EXPERIMENTS: dict[str, Callable[..., Result]] = {
    experiment.__name__: experiment
    for experiment in (
        shells,
        domination,
        expansion,
        jacobian,
        collapse,
        cosine,
        trajectories,
        advise,
        cost,
        samplers,
        budget,
        planted,
        dense,
        split,
    )
}

__all__ = ["EXPERIMENTS", "Finding", "Result", *EXPERIMENTS]
