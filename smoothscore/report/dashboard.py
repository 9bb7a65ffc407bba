"""What a dashboard shows: the figures that runs log, by measure, and what each of them means."""

from typing import Literal, NamedTuple

from smoothscore.report.columns import columns

_DIRECTIONS = {"low": "Low is good.", "high": "High is good.", "": ""}
_COLUMNS = {column.key: column for column in columns("*", ["*"])}  # * stands for the features, or for the noise level


class Panel(NamedTuple):
    """Figures that are looked at together.

    Attributes:
        title: above the panel.
        names: the figures as they are logged; with `varying`, without the end that differs from run to run.
        about: what they are, for people who have not met them.
        better: which direction is good; empty where neither is.
        varying: whether names end in _ and features or a noise level, such as frechet/train_lite0.
        log: whether the axis is logarithmic.
        kind: lines over the training step, pictures, or a table.
        wide: whether it takes a row of its own.
    """

    title: str
    names: tuple[str, ...]
    about: str = ""
    better: Literal["low", "high", ""] = ""
    varying: bool = False
    log: bool = False
    kind: Literal["lines", "pictures", "table"] = "lines"
    wide: bool = False

    @property
    def pattern(self) -> str:
        """A regular expression that the full names of these figures match."""
        return f"^({'|'.join(self.names)}){'_.+' if self.varying else ''}$"

    @property
    def text(self) -> str:
        """What the panel shows and which direction is good, in Markdown; empty where the title says it all."""
        words = " ".join(part for part in (self.about, _DIRECTIONS[self.better]) if part)
        return f"**{self.title}.** {words}" if words else ""


class Group(NamedTuple):
    """The panels of one measure, and what all of them share."""

    title: str
    panels: tuple[Panel, ...]
    note: str = ""

    @property
    def text(self) -> str:
        """What the panels show, as a Markdown list."""
        return "\n".join(f"* {text}" for text in (*(panel.text for panel in self.panels), self.note) if text)


def _of(column: str, title: str, *names: str, log: bool = False) -> Panel:
    """A panel in the words of a column of `smoothscore compare`."""
    known = _COLUMNS[column]
    return Panel(title, names, known.about, known.better, varying=column.endswith("_*"), log=log)


def _only_with(measure: str) -> str:
    return f'Measured by `smoothscore test`, and in validations whose `measures` name "{measure}".'


_INTERVAL = "Ends of the 95 % interval: how far the share would move with other samples of the same model."
_DIFFERENCE = "Memorized share less that of held-out images, with its interval: 0 inside it is no sign of copies."

LOSS = Group(
    "Loss",
    (
        Panel("Training loss", ("train/loss",), "Of batches of training images, against the model's targets.", "low"),
        Panel(
            "Validation loss",
            ("val/loss",),
            "Of held-out images, against plain denoising, also where the training's targets are smoothed.",
            "low",
        ),
        Panel("Skipped updates", ("train/skipped",), "Bad updates in a row, where the loss guard skips them.", "low"),
    ),
)
SAMPLES = Group(
    "Samples",
    (
        Panel("Samples above their nearest training images", ("generation/grid",), kind="pictures", wide=True),
        Panel(
            "Nearest training images",
            ("generation/neighbors",),
            "Of each sample, the most copied first: seed, d₁/d₂, d₁ in pixels, and the row of the training image.",
            kind="table",
            wide=True,
        ),
    ),
)
MEMORIZATION = Group(
    "Memorization",
    (
        _of("memorized", "Memorized, and held-out images", "memorization/fraction", "memorization/held_out"),
        Panel("Interval of memorized", ("memorization/low", "memorization/high"), _INTERVAL),
        _of(
            "excess",
            "Above held-out",
            "memorization/difference",
            "memorization/difference_low",
            "memorization/difference_high",
        )._replace(about=_DIFFERENCE),
        _of("below_third", "d₁/d₂ below 1/2 and 1/3", "memorization/below_half", "memorization/below_third"),
        _of("mean_ratio", "d₁/d₂, mean and smallest", "memorization/mean_ratio", "memorization/min_ratio"),
        _of(
            "calibrated",
            "Calibrated distance below 1, and held-out images",
            "memorization/calibrated",
            "memorization/calibrated_held_out",
        ),
    ),
    f"Calibrated distance: {_only_with('authenticity')}",
)
AMONG_FEATURES = Group(
    "Memorization among features",
    (
        _of(
            "memorized_*",
            "Memorized among features, and held-out images",
            "memorization/features_fraction",
            "memorization/features_held_out",
        ),
        Panel(
            "Interval of memorized among features",
            ("memorization/features_low", "memorization/features_high"),
            _INTERVAL,
            varying=True,
        ),
        _of(
            "excess",
            "Above held-out, among features",
            "memorization/features_difference",
            "memorization/features_difference_low",
            "memorization/features_difference_high",
        )._replace(about=_DIFFERENCE, varying=True),
        _of(
            "below_third",
            "d₁/d₂ among features below 1/2 and 1/3",
            "memorization/features_below_half",
            "memorization/features_below_third",
        )._replace(varying=True),
        _of(
            "mean_ratio",
            "d₁/d₂ among features, mean and smallest",
            "memorization/features_mean_ratio",
            "memorization/features_min_ratio",
        )._replace(varying=True),
    ),
    _only_with("authenticity"),
)
COPIES = Group(
    "Excess copies",
    (
        _of(
            "copies_excess_*",
            "Excess copies",
            "copies/excess",
            "copies/excess_low",
            "copies/excess_high",
        ),
        _of("copies_p_value_*", "p-value", "copies/p_value", log=True),
        _of("copies_label_p_value_*", "p-value by labels", "copies/label_p_value", log=True),
        _of("copies_flagged_*", "Flagged", "copies/flagged")._replace(
            about="Share of samples that can be named as copies; about one in ten of them is none."
        ),
    ),
    f"{_only_with('authenticity')} Takes 30 held-out images.",
)
FRECHET = Group(
    "Fréchet distance",
    (
        _of("frechet_train_*", "Fréchet distance to training images", "frechet/train"),
        _of("frechet_test_*", "Fréchet distance to held-out images", "frechet/test"),
        _of("frechet_ratio_*", "Held-out over training", "frechet/ratio"),
        Panel(
            "Bias of the Fréchet distance",
            ("frechet/bias",),
            "How far apart two parts of the held-out images are at these numbers; only where there are no more images "
            "than features.",
            varying=True,
        ),
    ),
)
KERNEL = Group(
    "Kernel distance",
    (
        _of("kernel_train_*", "Kernel distance to training images", "kernel/train"),
        _of("kernel_test_*", "Kernel distance to held-out images", "kernel/test"),
    ),
)
PRDC = Group(
    "Precision, recall, density, coverage",
    (
        _of("precision_*", "Precision", "prdc/precision"),
        _of("recall_*", "Recall", "prdc/recall"),
        _of("density_*", "Density", "prdc/density"),
        _of("coverage_*", "Coverage", "prdc/coverage"),
    ),
)
AUTHENTICITY = Group(
    "Authenticity",
    (
        _of("auth_pct_*", "AuthPct", "authenticity/auth_pct"),
        _of("c_t_*", "C_T", "authenticity/c_t"),
        _of("mifid_*", "MiFID", "authenticity/mifid"),
    ),
    _only_with("authenticity"),
)
DIVERSITY = Group("Diversity", (_of("vendi_*", "Vendi score", "diversity/vendi"),), _only_with("diversity"))
EXPANSION = Group(
    "Expansion",
    (
        Panel("Expansion ratio against the noise level", ("expansion/curve",), kind="pictures"),
        _of("expansion_*", "Expansion ratio of the network", "expansion/network"),
        Panel(
            "Expansion ratio of the exact score",
            ("expansion/exact",),
            "The same of the score of the training images themselves, which copies.",
            varying=True,
        ),
        Panel(
            "Overlap of shells",
            ("expansion/overlap",),
            "Share of pairs of training images whose shells overlap at a noise level: only these have a ratio.",
            varying=True,
        ),
    ),
)
COST = Group(
    "Speed and cost",
    (
        _of("step_ms", "Time of a training step (ms)", "train/step_ms"),
        _of("nfe", "NFE", "generation/nfe"),
        Panel("Drawing samples (s)", ("generation/seconds",), "Time to draw all samples of a validation.", "low"),
        Panel("Measuring samples (s)", ("generation/measuring_seconds",), "Time that their measures took.", "low"),
    ),
)
GROUPS = (
    LOSS,
    SAMPLES,
    MEMORIZATION,
    AMONG_FEATURES,
    COPIES,
    FRECHET,
    KERNEL,
    PRDC,
    AUTHENTICITY,
    DIVERSITY,
    EXPANSION,
    COST,
)
