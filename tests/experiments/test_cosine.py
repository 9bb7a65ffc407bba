"""The cosine experiment with a score that is the exact one, with a trained network, and bad input."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import cosine
from smoothscore.modules import NoiseConditioned, NoiseUnconditioned
from smoothscore.modules.checkpoint import Trained, load_trained
from smoothscore.score import Unconditioned

FAST = Path(__file__).parents[2] / "configs" / "experiment" / "emoji_fast.yaml"


def small():
    return Emoji(num_train=40, num_test=8, image_size=8)


class Known(nn.Module):
    """A network whose score is a given function."""

    image_size, in_channels = 8, 3

    def __init__(self, score, conditioned):
        super().__init__()
        self.score, self.conditioned = score, conditioned

    def forward(self, x, sigma):
        return -self.score(x, sigma) * sigma[:, None, None, None]


def opened(monkeypatch, network):
    preset = NoiseConditioned if network.conditioned else NoiseUnconditioned
    data = {"class_path": "Emoji", "init_args": {"num_train": 40, "num_test": 8, "image_size": 8}}
    trained = Trained(preset(network, sigma_min=0.02, sigma_max=2.0), {"data": data}, 7, Path("last.ckpt"))
    monkeypatch.setitem(cosine.__globals__, "open_checkpoints", lambda names: dict.fromkeys(names, trained))


def plain_conditioned(x, sigma):
    """Σ_j w_j (μ_j − x)/σ² in float64."""
    images = (small().train.pixels.float() / 255).double()
    offsets = images - x.double()[:, None]
    level_sq = sigma.double()[:, None] ** 2
    weights = (-offsets.flatten(2).square().sum(2) / (2 * level_sq)).softmax(1) / level_sq
    return torch.einsum("bm,bmchw->bchw", weights, offsets).float()


def test_the_exact_score_has_cosine_one_with_itself(monkeypatch):
    opened(monkeypatch, Known(plain_conditioned, conditioned=True))
    result = cosine(("mine",), num_images=12)
    assert [row["sigma"] for row in result.rows] == pytest.approx([0.02 * 100 ** (i / 6) for i in range(7)])
    for row in result.rows:
        assert (row["exact"], row["step"]) == ("conditioned", 7)
        assert row["cosine"] == row["cosine_conditioned"] == pytest.approx(1, abs=1e-5)
        assert row["angle"] < 0.3
        # between the exact score and μ − x, as between the learned score and μ − x
        assert row["cosine_clean"] == pytest.approx(row["exact_to_clean"], abs=1e-5)
    assert result.rows[-1]["cosine_clean"] < 0.9999
    assert [finding.held for finding in result.findings] == [True, False]


def test_a_blind_network_is_compared_with_the_unconditioned_score(monkeypatch):
    exact = Unconditioned(small().train.pixels)
    opened(monkeypatch, Known(lambda x, sigma: exact(x), conditioned=False))
    for row in cosine(("mine",), sigmas=(1.0, 2.0), num_images=12).rows:
        assert row["exact"] == "unconditioned"
        assert row["cosine"] == row["cosine_unconditioned"] == pytest.approx(1, abs=1e-6)
        assert row["cosine_conditioned"] < row["cosine"]


def test_angle_and_cosine_of_a_score_turned_by_a_known_angle(monkeypatch):
    def turned(x, sigma):
        score = plain_conditioned(x, sigma)
        other = torch.randn(score.shape, generator=torch.Generator().manual_seed(1))
        across = (
            other - (other * score).sum((1, 2, 3), keepdim=True) / score.square().sum((1, 2, 3), keepdim=True) * score
        )
        size = score.flatten(1).norm(dim=1) / across.flatten(1).norm(dim=1)
        return 3 * (score + math.tan(math.radians(30)) * size[:, None, None, None] * across)

    opened(monkeypatch, Known(turned, conditioned=True))
    result = cosine(("mine",), sigmas=(0.1,), num_images=12)
    assert result.rows[0]["angle"] == pytest.approx(30, abs=0.05)
    assert result.rows[0]["cosine"] == pytest.approx(math.cos(math.pi / 6), abs=1e-4)
    assert result.findings[1].held is True


def test_trained_checkpoint_through_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    main(["fit", "--config", str(FAST), "--trainer.max_steps=2", "--trainer.enable_progress_bar=false"])
    checkpoint = tmp_path / "runs" / "emoji_fast" / "version_0" / "checkpoints" / "last.ckpt"
    capsys.readouterr()
    main(["analyze", "cosine", "--checkpoints", f'["{checkpoint}"]', "--sigmas", "[0.1]", "--num_images", "10",
          "--out", str(tmp_path)])  # fmt: skip
    assert "B.2.3" in capsys.readouterr().out
    assert (tmp_path / "cosine.png").read_bytes().startswith(b"\x89PNG")
    (row,) = cosine((str(checkpoint),), sigmas=(0.1,), num_images=10).rows
    assert (row["checkpoint"], row["step"], row["exact"]) == ("version_0", 2, "unconditioned")

    trained = load_trained(checkpoint)
    module, data = trained.module, trained.data
    generator = torch.Generator().manual_seed(0)
    clean = data.train.pixels[torch.randint(64, (10,), generator=generator)].float() / 255
    x = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    learned = -module.network(x, torch.full((10,), 0.1)).double().flatten(1)
    offsets = (data.train.pixels.float() / 255).double().flatten(1) - x.double().flatten(1)[:, None]
    distance_sq = offsets.square().sum(2)
    weights = (-95 * distance_sq.log()).softmax(1) / distance_sq
    exact = torch.einsum("bm,bmd->bd", weights, offsets)
    mean = float(((learned * exact).sum(1) / learned.norm(dim=1) / exact.norm(dim=1)).mean())
    assert row["cosine"] == pytest.approx(mean, abs=1e-4)
    assert row["angle"] == pytest.approx(math.degrees(math.acos(mean)), abs=0.02)

    with pytest.raises(
        UserError, match=r"version_0 takes images of shape \[3, 8, 8\], but the data's are \[3, 16, 16\]"
    ):
        cosine((str(checkpoint),), data=Emoji(image_size=16))
    with pytest.raises(UserError, match="sigmas has 99, but checkpoint version_0 was trained on"):
        cosine((str(checkpoint),), sigmas=(99.0,))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({}, "name at least one"),
        ({"checkpoints": ("none.ckpt",)}, "none.ckpt does not exist"),
        ({"checkpoints": ("none.ckpt",), "sigmas": ()}, "sigmas is empty"),
        ({"checkpoints": ("none.ckpt",), "num_images": 0}, "num_images is 0"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        cosine(**options)


def test_broken_network_and_equal_images_are_refused(monkeypatch):
    opened(monkeypatch, Known(lambda x, sigma: x / 0, conditioned=False))
    with pytest.raises(UserError, match="not finite at sigma"):
        cosine(("mine",))
    data = small()
    data.train.pixels.fill_(7)
    with pytest.raises(UserError, match="All training images for checkpoint mine are equal"):
        cosine(("mine",), data=data)
