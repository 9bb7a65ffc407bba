"""The expansion experiment against plain float64 weights, the closed form of two images, and bad input."""

import math

import pytest
import torch
from torch import nn

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import expansion
from smoothscore.functional import expansion_points, nearest_pairs
from smoothscore.modules import NoiseConditioned
from tests.experiments.given import Given


def small():
    return Emoji(num_train=40, num_test=8, image_size=8)


def weights(x, images, sigma, temperature):
    """float64 [B, M] w_j c_j by Eq. (8)'s optimum, or by Eq. (5) with a temperature."""
    distance_sq = (x[:, None] - images).square().sum(2)
    dim = x.shape[1]
    if temperature is None:
        return (-distance_sq / (2 * sigma**2)).softmax(1) / sigma**2
    return (-(dim - 2) / (2 * temperature) * distance_sq.log()).softmax(1) * dim / distance_sq


def test_ratios_are_those_of_plain_float64_weights():
    data, c, step = small(), 1.02, 0.7
    images = (data.train.pixels.float() / 255).double().flatten(1)
    pairs = nearest_pairs(data.train.pixels, 20, generator=torch.Generator().manual_seed(3))
    length = (images[pairs[:, 0]] - images[pairs[:, 1]]).norm(dim=1)
    sigma = float(length.quantile(0.6)) / ((c + 1) * math.sqrt(192))
    radius = sigma * math.sqrt(192)
    kept = pairs[((c - 1) * radius <= length) & (length <= (c + 1) * radius)]
    assert len(kept) == 12
    result = expansion((sigma,), (10.0,), ("nearest",), data=data, num_pairs=20, c=c, step=step, seed=3)
    generator = torch.Generator().manual_seed(3)
    x, y, _ = expansion_points(images[kept[:, 0]], images[kept[:, 1]], sigma, c=c, generator=generator)
    for row, temperature in zip(result.rows, (None, 1.0, 10.0), strict=True):
        assert (row["num_pairs"], row["overlap"]) == (12, 0.6)
        moved = []
        for point in (x, y):
            share = weights(point, images, sigma, temperature)
            moved.append(point + step * sigma**2 * (share @ images - share.sum(1, keepdim=True) * point))
        ratio = (moved[1] - moved[0]).norm(dim=1) / (y - x).norm(dim=1)
        assert row["ratio"] == pytest.approx(float(ratio.mean()), rel=1e-3)
        assert row["ratio_median"] == pytest.approx(float(ratio.quantile(0.5)), rel=1e-3)
    order = [torch.cdist(point, images).argsort(1)[:, :2].sort(1).values for point in (x, y)]
    closest = torch.stack([(rows == kept.sort(1).values).all(1) for rows in order]).all(0)
    assert result.rows[0]["closest"] == pytest.approx(float(closest.double().mean()))


def test_two_images_give_the_prediction():
    data = Given(Emoji(num_train=2, num_test=2, image_size=8).train.pixels)
    result = expansion((0.5, 1.0), (10.0, 100.0), ("random",), data=data, num_pairs=3, c=1.01)
    for row in result.rows:
        assert row["closest"] == 1
        log_ratio = {"conditioned": (1.01**2 - 1) * 96, "unconditioned": 190 * math.log(1.01)}.get(row["score"])
        log_ratio = log_ratio or 190 * math.log(1.01) / float(row["score"].removeprefix("T = "))
        length_sq = (data.pixels[0].double() - data.pixels[1].double()).square().sum() / 255**2
        factor = float(length_sq) / ((1.01**2 - 1) * row["sigma"] ** 2 * 192)
        assert row["prediction"] == pytest.approx(factor * math.tanh(log_ratio / 2), rel=1e-5)
        if row["score"] == "conditioned":  # for which Eq. (7) is exact at η = 1
            assert row["ratio"] == pytest.approx(row["prediction"], rel=1e-3)
            assert row["of_prediction"] == pytest.approx(1, rel=1e-3)
    verdicts = {str(finding).partition(":")[0]: finding.held for finding in result.findings}
    assert verdicts["conditioned"] is True


def test_a_network_that_knows_nothing_moves_nothing(monkeypatch):
    class Blank(nn.Module):
        image_size, in_channels, conditioned = 8, 3, True

        def forward(self, x, sigma):
            return torch.zeros_like(x)

    module = NoiseConditioned(Blank())
    trained = type("Trained", (), {"module": module, "data": small()})
    monkeypatch.setitem(expansion.__globals__, "open_checkpoints", lambda names: dict.fromkeys(names, trained))
    result = expansion((0.2, 0.3), (10.0,), num_pairs=8, checkpoints=("mine",))
    row = next(row for row in result.rows if row["score"] == "network mine" and row["num_pairs"])
    assert row["ratio"] == pytest.approx(1, abs=1e-6)
    assert row["prediction"] is None
    (finding,) = (finding for finding in result.findings if finding.claim.startswith("network mine"))
    exact = [r["ratio"] for r in result.rows if r["score"] == "conditioned" and r["ratio"] is not None]
    assert finding.held == (min(exact) > 2)
    monkeypatch.setattr(Blank, "image_size", 16)
    with pytest.raises(UserError, match=r"checkpoint mine takes images of shape \[3, 16, 16\]"):
        expansion(num_pairs=8, checkpoints=("mine",))


def test_command_writes_table_and_figure(tmp_path, capsys):
    options = ["--num_pairs", "6", "--sigmas", "[0.3]", "--data", "Emoji", "--data.image_size", "8"]
    main(["analyze", "expansion", *options, "--data.num_train", "40", "--out", str(tmp_path)])
    assert "Eq. (7)" in capsys.readouterr().out
    assert (tmp_path / "expansion.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "expansion.csv").read_text().splitlines()) == 1 + 2 * 5


def test_order_of_temperatures_and_a_single_level_change_no_verdict():
    def held(temperatures, sigmas):
        result = expansion(sigmas, temperatures, ("nearest",), data=small(), num_pairs=10)
        return {finding.claim: finding.held for finding in result.findings}

    ascending, descending = held((5.0, 50.0), (0.2, 0.4)), held((50.0, 5.0), (0.4, 0.2))
    assert ascending == descending
    assert ascending["γ_ex falls as the temperature rises (Fig. 4)"] is True
    assert ascending["γ_ex rises as the noise level falls (Fig. 4)"] is True
    assert "γ_ex rises as the noise level falls (Fig. 4)" not in held((5.0,), (0.2,))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"temperatures": (10.0, 0.0)}, "temperatures is 0.0"),
        ({"sigmas": ()}, "sigmas is empty"),
        ({"pairs": ()}, "pairs is empty"),
        ({"c": 1.0}, "c: 1.0"),
        ({"sigmas": (1e-4,)}, "No shells overlap.*name levels between"),
        ({"checkpoints": ("none.ckpt",)}, "none.ckpt does not exist"),
        ({"data": Given(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))}, "All 5 training images are equal"),
        ({"data": Given(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))}, "1 training images"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        expansion(**{"data": small()} | options)
