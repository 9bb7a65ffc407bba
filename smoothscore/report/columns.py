"""Every figure of a comparison: its heading, what it is, which direction is good."""

from collections.abc import Sequence
from dataclasses import replace

from smoothscore.report.table import Column

MEMORIZATION, COPIES, QUALITY, BEHAVIOR = "Memorization", "Copies", "Quality and diversity", "Behavior and cost"


def columns(extractor: str, sigmas: Sequence[str]) -> tuple[Column, ...]:
    """The columns of a comparison in features of one extractor, with expansion ratios at some noise levels."""
    parts = {
        MEMORIZATION: _memorization(),
        COPIES: _copies(extractor),
        QUALITY: _quality(extractor),
        BEHAVIOR: _behavior(sigmas),
    }
    return tuple(replace(column, part=part) for part, members in parts.items() for column in members)


def _memorization() -> list[Column]:
    return [
        Column(
            "memorized",
            "memorized",
            style="percent",
            interval=True,
            better="low",
            drawn=True,
            about="Share of samples with d₁/d₂ < 2/3, where d₁ and d₂ are the distances in pixels to the nearest and "
            "second nearest training image.",
        ),
        Column(
            "excess",
            "above held-out",
            style="points",
            interval=True,
            better="low",
            about="Memorized share less that of held-out images, in percentage points: what cannot be explained by "
            "images that resemble one another anyway.",
        ),
        Column("below_third", "< 1/3", "ratio d₁/d₂", style="percent", better="low"),
        Column("below_half", "< 1/2", "ratio d₁/d₂", style="percent", better="low", shown=False),
        Column("mean_ratio", "mean", "ratio d₁/d₂", style="ratio", better="high"),
        Column("min_ratio", "min", "ratio d₁/d₂", style="ratio", better="high"),
        Column(
            "calibrated",
            "calibrated < 1",
            style="percent",
            interval=True,
            better="low",
            about="Carlini's calibrated distance: share of samples whose nearest training image is less than half as "
            "far as the mean of the 50 nearest.",
        ),
    ]


def _copies(extractor: str) -> list[Column]:
    among = [
        Column(
            f"memorized_{extractor}",
            "memorized",
            f"among features ({extractor})",
            style="percent",
            interval=True,
            better="low",
            about="Share of samples with d₁/d₂ < 2/3 among features: copies that moved or changed color show here.",
        )
    ]
    return [
        Column(
            f"copies_excess_{extractor}",
            "share",
            f"excess copies ({extractor} and pixels)" if extractor != "pixels" else "excess copies",
            style="percent",
            interval=True,
            better="low",
            about="Share of samples that are nearer to a training image than fresh images would be, where images are "
            "as dense, in pixels or features: calibrated on held-out images, so that it also speaks in dense data.",
        ),
        Column(
            f"copies_p_value_{extractor}",
            "p-value",
            f"excess copies ({extractor} and pixels)" if extractor != "pixels" else "excess copies",
            about="Probability of so many near samples if they were fresh images. Below 0.05: some are copies, or the "
            "model favors images of a kind that lies near.",
        ),
        Column(
            f"copies_label_p_value_{extractor}",
            "by labels",
            f"excess copies ({extractor} and pixels)" if extractor != "pixels" else "excess copies",
            about="Probability of samples so close to training images, rather than to held-out ones, if which images "
            "were trained on had been dealt at random: holds for samples of any kind, and takes more copies.",
        ),
        Column(f"copies_flagged_{extractor}", "flagged", style="percent", better="low", shown=False),
        *(among if extractor != "pixels" else []),
        Column(
            f"auth_pct_{extractor}",
            "AuthPct",
            f"among features ({extractor})",
            style="tenths",
            interval=True,
            better="high",
            about="Percentage of samples that are farther from their nearest training image than that image is from "
            "its own nearest neighbor. 0 for copies; compare with held-out images.",
        ),
        Column(
            f"c_t_{extractor}",
            "C_T",
            f"among features ({extractor})",
            style="tenths",
            interval=True,
            about="Are samples nearer to the training images than held-out images are? A z-score: near 0 is good, "
            "below −3 is copying, above 3 the samples are off.",
        ),
    ]


def _quality(extractor: str) -> list[Column]:
    distance, kernel = f"Fréchet distance ({extractor})", f"kernel distance ({extractor})"
    fidelity = f"against held-out images ({extractor})"
    return [
        Column(
            f"frechet_train_{extractor}",
            "to train",
            distance,
            interval=True,
            better="low",
            about="Distance between Gaussians fitted to features of samples and of training images. Copies score well: "
            "read it beside the distance to held-out images.",
        ),
        Column(f"frechet_test_{extractor}", "to test", distance, interval=True, better="low"),
        Column(
            f"frechet_ratio_{extractor}",
            "test/train",
            distance,
            style="ratio",
            interval=True,
            about="Distance to held-out images over distance to training images: about 1 is good, far above 1 the "
            "samples keep to the training images.",
        ),
        Column(
            f"kernel_train_{extractor}",
            "to train",
            kernel,
            interval=True,
            better="low",
            about="Squared maximum mean discrepancy with a cubic kernel (the KID where features are Inception's). It "
            "has no bias at few images; around 0, also just below, nothing tells the sets apart.",
        ),
        Column(f"kernel_test_{extractor}", "to test", kernel, interval=True, better="low"),
        Column(
            f"mifid_{extractor}",
            "MiFID",
            better="low",
            about="Fréchet distance to all training images, divided by the mean cosine distance of samples to their "
            "nearest training image where that is below 0.1: it grows for copies.",
        ),
        Column(
            f"precision_{extractor}",
            "precision",
            fidelity,
            style="ratio",
            interval=True,
            better="high",
            about="Share of samples within reach of a real image (its 5th nearest neighbor): are they realistic?",
        ),
        Column(
            f"recall_{extractor}",
            "recall",
            fidelity,
            style="ratio",
            interval=True,
            better="high",
            about="Share of held-out images within reach of a sample: are all kinds drawn?",
        ),
        Column(
            f"density_{extractor}",
            "density",
            fidelity,
            style="ratio",
            interval=True,
            better="high",
            about="How many real neighborhoods hold a sample, over 5: about 1 for real images; less moved by outliers "
            "than precision.",
        ),
        Column(
            f"coverage_{extractor}",
            "coverage",
            fidelity,
            style="ratio",
            interval=True,
            better="high",
            about="Share of real neighborhoods that hold a sample.",
        ),
        Column(
            f"vendi_{extractor}",
            "Vendi",
            style="tenths",
            interval=True,
            better="high",
            about="Effective number of different samples; grows with the number drawn.",
        ),
    ]


def _behavior(sigmas: Sequence[str]) -> list[Column]:
    return [
        *(
            Column(
                f"expansion_{sigma}",
                f"σ = {sigma}",
                "expansion ratio",
                about=""
                if place
                else "Distance of two close points after one denoising step over that before it; "
                "large values drive samples apart onto single training images.",
            )
            for place, sigma in enumerate(sigmas)
        ),
        Column("nfe", "NFE", style="integer", about="Evaluations of the score for one sample."),
        Column("step_ms", "ms per step", style="milliseconds", better="low", about="Median time of a training step."),
        Column("samples", "samples", style="integer", shown=False),
    ]
