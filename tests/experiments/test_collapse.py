"""The collapse experiment against plain float64 paths, the closed form of a lone center, and bad input."""

import math

import pytest
import torch

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import collapse
from smoothscore.experiments.sampling import exact_scores, walk
from smoothscore.schedules import shell_touch


def small():
    return Emoji(num_train=40, num_test=8, image_size=8)


def plain_path(x, images, sigmas, temperature):
    """Largest weight [N, B] along the path, float64; temperature None is the conditioned score at σ*."""
    dim, largest, levels = x.shape[1], [], []
    sigmas = sigmas.double().flip(0)
    for number, level in enumerate(sigmas):
        offset = images - x[:, None]
        distance_sq = offset.square().sum(2)
        star_sq = distance_sq.amin(1, keepdim=True) / dim
        if temperature is None:
            weights = (-distance_sq / (2 * star_sq)).softmax(1)
            score = (weights[..., None] * offset).sum(1) / star_sq
        else:
            weights = (-(dim - 2) / (2 * temperature) * distance_sq.log()).softmax(1)
            score = ((weights * dim / distance_sq)[..., None] * offset).sum(1)
        largest.append(weights.amax(1))
        levels.append(star_sq.sqrt().squeeze(1))
        if number + 1 < len(sigmas):
            x = x + (level**2 - sigmas[number + 1] ** 2) / 2 * star_sq / level**2 * score
    return torch.stack(largest), torch.stack(levels)


def test_paths_and_collapse_steps_are_those_of_plain_float64():
    data = small()
    images = (data.train.pixels.float() / 255).double().flatten(1)
    sigmas = shell_touch(0.05, 20.0, 192)
    result = collapse((10.0, 200.0), data=data, sigma_min=0.05, sigma_max=20.0, num_samples=4, seed=2)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    start = (float(sigmas[-1]) * noise).double().flatten(1)
    for name, temperature in (("conditioned", None), ("unconditioned", 1.0), ("T = 10", 10.0), ("T = 200", 200.0)):
        largest, levels = plain_path(start, images, sigmas, temperature)
        torch.testing.assert_close(torch.tensor(result.arrays[f"weight_{name}"]).double(), largest, atol=3e-3, rtol=0)
        torch.testing.assert_close(torch.tensor(result.arrays[f"sigma_{name}"]).double(), levels, atol=0, rtol=3e-3)
        rows = [row for row in result.rows if row["score"] == name]
        for row, weight, level in zip(rows, largest.T, levels.T, strict=True):
            above = [step for step, value in enumerate(weight.tolist()) if value > 0.9]
            assert row["collapse_step"] == (above[0] + 1 if above else None)
            if above:
                assert row["collapse_sigma"] == pytest.approx(float(level[above[0]]), rel=3e-3)
    steps = {name: [row["collapse_step"] for row in result.rows if row["score"] == name] for name in ("T = 200",)}
    assert steps["T = 200"] == [None] * 4


def test_a_lone_center_is_approached_by_the_share_of_the_schedule():
    images = torch.stack([torch.full((3, 8, 8), 0.5), torch.full((3, 8, 8), 1e4)])
    sigmas = torch.tensor([0.1, 0.2, 0.5, 1.0])
    x = 0.5 + torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    visits = list(walk(exact_scores(images, ())["conditioned"], x, sigmas))
    actual = (x - 0.5).flatten(1).norm(dim=1) / math.sqrt(192)
    for visit, factor in zip(visits, (1, 1 - 0.75 / 2, 1 - 0.84 / 2, 1 - 0.75 / 2), strict=True):
        actual = actual * factor  # 1 − β/2 with β = (σ_n² − σ_{n+1}²)/σ_n²
        torch.testing.assert_close(visit.sigma, actual, rtol=1e-4, atol=0)


def test_a_score_that_is_told_the_schedule_collapses_no_later():
    options = {"data": small(), "sigma_min": 0.05, "num_samples": 6}
    actual, scheduled = (collapse((50.0,), told=told, **options).rows[:6] for told in ("actual", "scheduled"))
    assert sum(row["collapse_step"] for row in scheduled) < sum(row["collapse_step"] for row in actual)


def test_command_writes_the_strip_and_says_what_held(tmp_path, capsys):
    options = ["--temperatures", "[1000]", "--num_samples", "2", "--num_pictures", "3", "--out", str(tmp_path)]
    main(["analyze", "collapse", *options, "--data", "Emoji", "--data.num_train", "20", "--data.image_size", "8"])
    printed = capsys.readouterr().out
    assert "at T = 1000 no center ever takes over (Fig. 15 d): held" in printed
    assert (tmp_path / "collapse.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "collapse.csv").read_text().splitlines()) == 1 + 3 * 2


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"temperatures": (0.0,)}, "temperatures is 0.0"),
        ({"temperatures": ()}, "temperatures is empty"),
        ({"threshold": 1.0}, "threshold is 1.0"),
        ({"sigma_min": 60.0}, "sigma_min = 60.0 must lie below"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        collapse(**{"data": small()} | options)


def test_equal_images_are_refused():
    data = small()
    data.train.pixels.fill_(3)
    with pytest.raises(UserError, match="All 40 training images are equal"):
        collapse(data=data)
