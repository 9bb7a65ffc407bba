"""The advice against plain float64 weights over all images, near-duplicates that were planted, and bad input."""

import math

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.distances import Centers
from smoothscore.errors import UserError
from smoothscore.experiments import advise
from smoothscore.experiments.blends import blends
from smoothscore.experiments.neighborhoods import Neighborhoods
from smoothscore.modules import ScoreModule, TemperatureSmoothed
from tests.experiments.given import Given
from tests.oracle.effective import temperature_oracle


def small(num_train=60):
    return Emoji(num_train=num_train, num_test=8, image_size=8)


def drawn(data, num_points, seed):
    """Clean images [P, d] and noise [P, d] as the experiment draws them, and all images [M, d], float64."""
    generator = torch.Generator().manual_seed(seed)
    pixels = data.train.pixels
    rows = torch.randperm(len(pixels), generator=generator)[:num_points]
    noise = torch.randn(len(rows), *pixels.shape[1:], generator=generator).double().flatten(1)
    images = (pixels.float() / 255).double().flatten(1)
    return images[rows], noise, images


def numbers(weights):
    return torch.special.entr(weights).sum(1).exp()


def test_levels_are_those_of_plain_float64_weights():
    data = small()
    result = advise((5, 20), (3.0,), data=data, num_levels=5, num_points=24, seed=1)
    clean, noise, images = drawn(data, 24, 1)
    near = torch.cdist(clean, images).argsort(1)
    for row in result.rows:
        if row["kind"] != "level":
            continue
        distance_sq = (
            torch.cdist(clean + row["sigma"] * noise, images, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        )
        if row["score"] == "conditioned":
            weights = (-distance_sq / (2 * row["sigma"] ** 2)).softmax(1)
        elif row["score"] == "unconditioned":
            weights = (-95 * distance_sq.log()).softmax(1)
        else:
            assert row["temperature"] == pytest.approx(max(row["numerator"] / row["sigma"], 1))
            chosen = distance_sq.gather(1, near[:, : row["k"]])
            weights = (-95 / row["temperature"] * chosen.log()).softmax(1)
        assert row["effective_number"] == pytest.approx(float(numbers(weights).quantile(0.5)), rel=2e-3)
        assert row["effective_number_high"] == pytest.approx(float(numbers(weights).quantile(0.9)), rel=2e-3)
        assert row["largest_weight"] == pytest.approx(float(weights.amax(1).median()), abs=1e-3)


def test_recommendation_follows_its_rule():
    data = small()
    result = advise((5, 20), data=data, num_points=24, seed=1)
    clean, noise, images = drawn(data, 24, 1)
    advice = yaml.safe_load(result.findings[-1].claim.partition(": ")[2])
    options = advice["model"]["init_args"]
    collapse, numerator = options["sigma_collapse"], options["temperature"]["init_args"]["sigma_collapse"]
    k = advice["data"]["init_args"]["k"]

    def exact(sigma):
        return (-95 * torch.cdist(clean + sigma * noise, images).square().log()).softmax(1)

    assert float(exact(0.93 * collapse).amax(1).median()) > 0.5 > float(exact(1.07 * collapse).amax(1).median())
    assert k == next((k for k in (5, 20) if k >= 2 * float(numbers(exact(collapse)).median())), 20)

    near = torch.cdist(clean, images).argsort(1)[:, :k]

    def weakest(factor):
        least = math.inf
        for exponent in range(60):
            sigma = 0.01 * (collapse / 0.01) ** (exponent / 59)
            distance_sq = (clean + sigma * noise)[:, None].sub(images[near]).square().sum(2)
            weights = (-95 / max(factor * numerator / sigma, 1) * distance_sq.log()).softmax(1)
            least = min(least, float(numbers(weights).median()))
        return least

    assert weakest(1.03) > 2 > weakest(0.97)
    marked = [row for row in result.rows if row["recommended"]]
    assert marked
    assert all(row["k"] == k and row["sigma"] <= collapse * 1.05 for row in marked)


def test_neighborhoods_need_one_search_for_all_levels():
    data = small()
    points = Neighborhoods(Centers(data.train.pixels), 10, 6, seed=4)
    clean, noise, images = drawn(data, 10, 4)
    near = torch.cdist(clean, images).argsort(1)[:, :6]
    for sigma in (0.02, 0.5, 8.0):
        distance_sq = (clean + sigma * noise)[:, None].sub(images[near]).square().sum(2)
        expected = (-95 / 7 * distance_sq.log()).softmax(1)
        torch.testing.assert_close(points.weights(sigma, 7.0, 6), expected, atol=1e-5, rtol=1e-4)


def test_repeats_are_counted_and_near_duplicates_named():
    pixels = small(30).train.pixels.clone()
    pixels[7] = pixels[3]
    pixels[20] = pixels[11]
    pixels[20, 0, 0, 0] ^= 8
    result = advise((5,), data=Given(pixels), num_points=10)
    texts = [str(finding) for finding in result.findings]
    assert any("1 of 30" in text for text in texts)
    pair = next(row for row in result.rows if row["kind"] == "pair")
    assert (pair["row"], pair["other"]) == (11, 20)
    assert pair["distance"] == pytest.approx(8 / 255, rel=1e-4)
    assert any("11 and 20 at" in text for text in texts)
    images = (pixels.float() / 255).double().flatten(1)
    apart = (images[:, None] - images).norm(dim=2).fill_diagonal_(math.inf)
    apart[3, 7] = math.inf
    kept = torch.arange(30) != 7
    torch.testing.assert_close(
        torch.tensor(result.arrays["nearest_distance"]).double().sort().values,
        apart[kept].amin(1).sort().values, rtol=1e-5, atol=0)  # fmt: skip


def test_command_prints_yaml_that_a_model_takes(tmp_path, capsys):
    options = ["--data", "Emoji", "--data.num_train", "40", "--data.image_size", "8", "--ks", "[10]"]
    main(["analyze", "advise", *options, "--num_points", "16", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "advise.png").read_bytes().startswith(b"\x89PNG")
    line = next(line for line in printed.splitlines() if line.startswith("- as YAML"))
    advice = yaml.safe_load(line[line.index("{") : line.rindex("}") + 1])
    advice["model"]["init_args"]["network"] = {
        "class_path": "UNet",
        "init_args": {"image_size": 8, "conditioned": False},
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScoreModule, "model")
    module = parser.instantiate(parser.parse_object({"model": advice["model"]})).model
    assert isinstance(module, TemperatureSmoothed)
    assert module.temperature.sigma_collapse > module.sigma_collapse


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"ks": ()}, "ks is empty"),
        ({"ks": (100,)}, "60 different images, too few"),
        ({"numerators": (0.0,)}, "numerators is 0.0"),
        ({"least_neighbors": 1.0}, "least_neighbors is 1.0"),
        ({"num_points": 0}, "num_points is 0"),
        ({"numbers": (0.5, 2.0)}, r"numbers is \[0.5, 2.0\]"),
        ({"sigma_min": 0.0}, "sigma_min is 0.0"),
        ({"sigma_max": 0.02}, "no level below which one image"),
        ({"data": Given(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))}, "1 different images, too few"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        advise(**{"data": small()} | options)


def test_blends_are_the_means_at_which_n_speak():
    data = small()
    centers = Centers(data.train.pixels)
    points = Neighborhoods(centers, 12, 6, seed=4)
    clean, noise, images = drawn(data, 12, 4)
    near = torch.cdist(clean, images).argsort(1)[:, :6]
    for blend in blends(points, centers, [1.0, 1.5, 4.0, 6.0], [0.05, 0.5], 6):
        distance_sq = (clean + blend.sigma * noise)[:, None].sub(images[near]).square().sum(2)
        log_weight = -95 * distance_sq.log()
        moved, copied = [], []
        for row, of, image in zip(log_weight, near, clean, strict=True):
            if blend.number == 1:
                weights = (row == row.max()).double()
            elif blend.number == 6:
                weights = torch.full((6,), 1 / 6, dtype=torch.float64)
            else:
                weights = (row / temperature_oracle(row, blend.number)).softmax(0)
            mean = weights @ images[of]
            first, second = (mean - images).norm(dim=1).sort().values[:2]
            copied.append(float(first < 2 / 3 * second))
            moved.append((mean - image).norm() / (image - images[of[1]]).norm())
        assert blend.moved == pytest.approx(float(torch.stack(moved).median()), rel=5e-3, abs=1e-6)
        assert blend.copied == pytest.approx(sum(copied) / 12)


def test_n_is_recommended_for_what_the_temperature_reaches_at_its_weakest_level():
    result = advise((5, 20), data=small(), num_points=24, num_levels=3, least_neighbors=2.5, seed=1)
    mine = {row["effective_number"] for row in result.rows if row["kind"] == "number" and row["recommended"]}
    assert mine == {2.5}
    claim = next(finding.claim for finding in result.findings if finding.claim.startswith("or n"))
    options = yaml.safe_load(claim[claim.index("{") :])
    assert options["temperature"]["init_args"] == {"n": 2.5}
