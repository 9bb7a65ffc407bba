"""Shells and domination against the chi distribution, a float64 evaluation of the weights, and real images."""

import csv
import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import chi

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import EXPERIMENTS, Finding, domination, shells
from smoothscore.functional import nearest_pairs
from smoothscore.schedules import shell_touch


def test_shells_hold_the_mass_of_the_chi_distribution():
    result = shells(dims=(48, 3072), sigmas=(0.1, 2.0), num_samples=4000, width=2.0)
    assert [(row["dim"], row["sigma"]) for row in result.rows] == [(48, 0.1), (48, 2.0), (3072, 0.1), (3072, 2.0)]
    for row in result.rows:
        edges = math.sqrt(row["dim"]) + np.array([-1, 1]) * 2 / math.sqrt(2)
        exact = np.diff(chi(row["dim"]).cdf(edges)).item()
        assert row["exact_mass"] == pytest.approx(exact, rel=1e-9)
        assert abs(row["mass"] - exact) < 5 * math.sqrt(exact * (1 - exact) / 4000)
        assert row["standard_deviation"] == pytest.approx(math.sqrt(row["mass"] * (1 - row["mass"]) / 4000))
        assert row["limit"] == pytest.approx(0.954500, abs=1e-6)
    assert result.arrays["radius_over_sigma_48"].shape == (4000,)


def test_levels_outweigh_each_other_as_their_weights_do():
    dim, alpha = 3072, 0.4
    result = domination(alphas=(alpha,), dims=(dim, 10**9), sigmas=(1.0,), num_pairs=4, data=small())
    low, high = shell_touch(0.01, 50, dim)[:2].double().tolist()
    radius = math.sqrt(dim) * ((1 - alpha) * low + alpha * high)

    def log_weight(sigma):
        return -(dim - 2) * math.log(sigma) - radius**2 / (2 * sigma**2)

    row = result.rows[0]
    assert row["kind"] == "level"
    # float32 levels: an error of 6e-8 in ln σ counts d times
    assert row["log_ratio"] == pytest.approx(log_weight(low) - log_weight(high), abs=2e-3)
    assert row["limit"] == pytest.approx(math.exp(3.6))
    assert result.rows[1]["ratio"] == pytest.approx(row["limit"], rel=0.01)
    assert [finding.held for finding in result.findings] == [True, True, None]


def small():
    return Emoji(num_train=40, num_test=8, image_size=8)


def test_centers_outweigh_each_other_as_their_weights_do():
    data, sigma = small(), 0.5
    row = next(r for r in domination(data=data, sigmas=(sigma,), num_pairs=40, seed=3).rows if r["kind"] == "center")
    # the same pairs and noise, with plain float64 weights
    generator = torch.Generator().manual_seed(3)
    own, other = nearest_pairs(data.train.pixels, 40, generator=generator).unbind(1)
    images = data.train.pixels.double().flatten(1) / 255
    x = images[own] + sigma * torch.randn(images.shape, generator=generator, dtype=torch.float64)
    log_weight = [-(x - images[index]).square().sum(1) / (2 * sigma**2) for index in (own, other)]
    low, middle, high = np.quantile((log_weight[0] - log_weight[1]).numpy(), [0.1, 0.5, 0.9])
    found = (row["log_ratio_low"], row["log_ratio"], row["log_ratio_high"])
    assert found == pytest.approx((low, middle, high), rel=1e-9)
    assert row["ratio"] == pytest.approx(math.exp(middle))
    assert torch.cdist(images, images).fill_diagonal_(math.inf).argmin(1)[own].equal(other)


def test_command_writes_table_and_figure(tmp_path, capsys):
    main(["analyze", "shells", "--dims", "[48]", "--sigmas", "[1.0]", "--num_samples", "500", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "Prop. 1" in printed
    report = json.loads((tmp_path / "shells.json").read_text())
    assert report["options"]["dims"] == [48]
    assert len(report["summary"]) == 2
    with (tmp_path / "shells.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["mass"]) == report["rows"][0]["mass"]
    assert (tmp_path / "shells.png").read_bytes().startswith(b"\x89PNG")
    assert "</svg>" in (tmp_path / "shells.svg").read_text()


def test_every_experiment_has_help(capsys):
    for name in EXPERIMENTS:
        with pytest.raises(SystemExit, match="0"):
            main(["analyze", name, "--help"])
        assert "--out" in capsys.readouterr().out


def test_finding_says_what_held():
    assert str(Finding("A > B", "2 > 1", True)) == "A > B: held (2 > 1)"
    assert "did not hold" in str(Finding("A > B", "1 < 2", False))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"sigmas": (0.1, 0.0)}, "sigmas is 0.0"),
        ({"dims": ()}, "dims is empty"),
        ({"num_samples": 0}, "num_samples is 0"),
    ],
)
def test_shells_refuse_bad_options(options, culprit):
    with pytest.raises(UserError, match=culprit):
        shells(**options)


def test_domination_refuses_a_point_beyond_the_shells():
    with pytest.raises(UserError, match="alpha"):
        domination(alphas=(1.5,))


def test_out_that_is_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="1"):
        main(["analyze", "shells", "--out", str(tmp_path / "file")])
    assert "is a file" in capsys.readouterr().err
