"""The Jacobian experiment against dense autograd Jacobians, closed forms between two centers, and bad input."""

import math

import numpy as np
import pytest
import torch

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import jacobian
from smoothscore.functional import random_pairs
from tests.oracle import jacobian as oracle

bisector_points = jacobian.__globals__["bisector_points"]


def small(num_train=12):
    return Emoji(num_train=num_train, num_test=4, image_size=8)


def test_statistics_are_those_of_dense_jacobians():
    temperatures = (1.0, 50.0)
    result = jacobian(temperatures, ("random",), data=small(), num_points=5, seed=4)
    generator = torch.Generator().manual_seed(4)
    centers = torch.rand(12, 192, generator=generator, dtype=torch.float64)
    pairs = random_pairs(12, 5, generator=generator)
    x = bisector_points(centers, pairs, 0.25, 1e-3, generator)
    distance = (x[:, None] - centers).norm(dim=2)
    settings = [(1.0, "nearest"), *((temperature, None) for temperature in (*temperatures, math.inf))]
    for row, (temperature, sigma) in zip(result.rows, settings, strict=True):
        assert (row["centers"], row["dim"], row["temperature"]) == ("random", 192, temperature)
        assert row["score"] == ("unconditioned" if sigma is None else "conditioned")
        values = torch.linalg.eigvalsh(oracle.jacobian(x, centers, temperature, sigma))
        eigenvalue = torch.where(values[:, -1].abs() > values[:, 0].abs(), values[:, -1], values[:, 0]).numpy()
        assert row["radius"] == pytest.approx(abs(eigenvalue).mean(), rel=1e-4)
        assert row["radius_sd"] == pytest.approx(abs(eigenvalue).std(), rel=1e-3, abs=1e-3)
        assert row["radius_median"] == pytest.approx(np.median(abs(eigenvalue)), rel=1e-4)
        assert row["eigenvalue"] == pytest.approx(eigenvalue.mean(), rel=1e-3)
        assert row["negative"] == (eigenvalue < 0).mean()
        level_sq = distance.square() / 192
        log_weight = -190 * distance.log() / temperature
        expected = (log_weight.softmax(1) / level_sq).sum(1) if sigma is None else 1 / level_sq.amin(1)
        assert row["kappa"] == pytest.approx(float(expected.mean()), rel=1e-4)
        key = f"{row['centers']}_{row['score']}_{temperature:g}"
        assert result.arrays[f"kappa_{key}"] == pytest.approx(expected.numpy(), rel=1e-4)
    assert result.rows[-1]["radius"] == pytest.approx(result.rows[-1]["kappa"], rel=1e-5)  # J = −κI
    verdicts = {finding.claim.split(": ")[1].split(" (")[0]: finding.held for finding in result.findings}
    assert verdicts["λ_max ≤"] is True
    assert verdicts["κ does not rise with T at any point"] is True


def test_midway_between_two_centers_the_radius_falls_as_one_over_temperature():
    # w = 1/2 each and g = ±u L/(2σ*²): λ = (L²/(4σ*⁴))/T − κ with σ*² = L²/(4d), so that λ = (4d²/T − 4d)/L²
    data = small(2)
    result = jacobian((1.0, 10.0), ("images",), data=data, num_points=3, spread=0, perturbation=0)
    pixels = data.train.pixels.double() / 255
    length_sq = float((pixels[0] - pixels[1]).square().sum())
    dim = 192
    for row in result.rows:
        assert row["kappa"] == pytest.approx(4 * dim / length_sq, rel=1e-5)
        assert row["closest"] == 1
        expected = (4 * dim**2 / row["temperature"] - 4 * dim) / length_sq
        assert row["eigenvalue"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["random", "images"])
def test_points_are_on_the_bisector_and_in_the_cube(kind):
    generator = torch.Generator().manual_seed(0)
    centers = small(30).train.pixels.double().flatten(1) / 255
    if kind == "random":
        centers = torch.rand(centers.shape, generator=generator, dtype=torch.float64)
    pairs = random_pairs(30, 50, generator=generator)
    x = bisector_points(centers, pairs, 1.0, 0.0, generator)
    assert float(x.min()) > -1e-12
    assert float(x.max()) < 1 + 1e-12
    near, far = ((x - centers[side]).norm(dim=1) for side in pairs.unbind(1))
    assert torch.allclose(near, far, rtol=1e-12)
    assert float((x - centers[pairs].mean(1)).norm(dim=1).min()) > 1  # and not just the middle
    generator.manual_seed(7)
    still = bisector_points(centers, pairs, 1.0, 0.0, generator)
    generator.manual_seed(7)
    moved = bisector_points(centers, pairs, 1.0, 0.01, generator) - still
    assert float(moved.std()) == pytest.approx(0.01, rel=0.05)


def test_command_writes_table_and_figure(tmp_path, capsys):
    options = ["--num_points", "4", "--temperatures", "[1,10]", "--data", "Emoji", "--data.image_size", "8"]
    main(["analyze", "jacobian", *options, "--data.num_train", "10", "--out", str(tmp_path)])
    assert "Table 5" in capsys.readouterr().out
    assert (tmp_path / "jacobian.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "jacobian.csv").read_text().splitlines()) == 1 + 2 * 4


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"temperatures": (1.0, -1.0)}, "temperatures is -1.0"),
        ({"temperatures": ()}, "temperatures is empty"),
        ({"temperatures": (math.inf,)}, "always there"),
        ({"centers": ()}, "centers is empty"),
        ({"num_centers": 1}, "num_centers is 1"),
        ({"num_points": 0}, "num_points is 0"),
        ({"spread": 1.5}, "spread is 1.5"),
        ({"perturbation": math.nan}, "perturbation is nan"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        jacobian(**options)


def test_equal_images_are_refused(monkeypatch):
    data = small()
    data.train.pixels.fill_(7)
    with pytest.raises(UserError, match="All 12 training images are equal"):
        jacobian(data=data)
