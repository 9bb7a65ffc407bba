"""The trajectories experiment against float64 paths in plane and distance, a known network, and bad input."""

from pathlib import Path

import pytest
import torch
from torch import nn

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import trajectories
from smoothscore.experiments.interpolation import interpolate
from smoothscore.experiments.trajectories import arc
from smoothscore.modules import NoiseConditioned
from smoothscore.modules.checkpoint import Trained
from smoothscore.schedules import shell_touch
from smoothscore.score import Conditioned, Unconditioned


def small():
    return Emoji(num_train=40, num_test=8, image_size=8)


def planar_path(place, height, points, sigmas, dim, temperature):
    """Places [N, P, 2] in the plane, with only the distance `height` from it; float64."""
    places, largest = [], []
    sigmas = sigmas.double().flip(0)
    for number, level in enumerate(sigmas):
        offset = points - place[:, None]
        distance_sq = offset.square().sum(2) + height[:, None] ** 2
        star_sq = distance_sq / dim
        nearest_sq = star_sq.amin(1, keepdim=True)
        if temperature is None:
            weights = (-distance_sq / (2 * nearest_sq)).softmax(1)
            star_sq = nearest_sq
        else:
            weights = (-(dim - 2) / (2 * temperature) * distance_sq.log()).softmax(1)
        places.append(place)
        largest.append(weights.amax(1))
        if number + 1 < len(sigmas):
            pull = (1 - (sigmas[number + 1] / level) ** 2) / 2 * nearest_sq * weights / star_sq
            place = place + (pull[..., None] * offset).sum(1)
            height = height * (1 - pull.sum(1))
    return torch.stack(places), torch.stack(largest)


def test_paths_are_those_of_plane_and_distance_alone():
    result = trajectories((3.0, 30.0), num_centers=5, dim=96, num_paths=6, sigma_min=0.02, seed=3)
    points, sigmas = arc(5).double(), shell_touch(0.02, 3.0, 96)
    start = float(sigmas[-1]) * torch.randn(6, 96, generator=torch.Generator().manual_seed(3)).double()
    for name, temperature in (("conditioned", None), ("unconditioned", 1.0), ("T = 3", 3.0), ("T = 30", 30.0)):
        places, largest = planar_path(start[:, :2], start[:, 2:].norm(dim=1), points, sigmas, 96, temperature)
        torch.testing.assert_close(torch.tensor(result.arrays[f"path_{name}"]).double(), places, atol=1e-2, rtol=0)
        torch.testing.assert_close(torch.tensor(result.arrays[f"weight_{name}"]).double(), largest, atol=1e-2, rtol=0)
        rows = [row for row in result.rows if row["score"] == name]
        for row, place in zip(rows, places[-1], strict=True):
            assert row["in_plane"] == pytest.approx(float((place - points).norm(dim=1).min()), abs=1e-2)
    assert result.findings[0].held is True


def test_mixtures_keep_the_noise_level_and_the_exact_score_copies():
    images = small().train.pixels
    found = interpolate(Conditioned(images), images, (4, 9), sigma=2.0, sigma_min=0.01, num_levels=40, num=5)
    clean = images.float() / 255
    for share, noised in zip((0.0, 0.25, 0.5, 0.75, 1.0), found.noised, strict=True):
        noise = noised - (1 - share) * clean[4] - share * clean[9]
        assert float(noise.std()) == pytest.approx(2.0, rel=0.2)
    ends = [found.noised[row] - clean[image] for row, image in ((0, 4), (-1, 9))]
    middle = (ends[0] + ends[1]) / 2**0.5 + (clean[4] + clean[9]) / 2
    torch.testing.assert_close(found.noised[2], middle)
    assert float(found.ratio.max()) < 0.1
    apart = (found.denoised[:, None] - clean).flatten(2).norm(dim=2)
    torch.testing.assert_close(
        found.ratio, apart.sort(1).values[:, 0] / apart.sort(1).values[:, 1], rtol=1e-3, atol=1e-4
    )
    assert found.nearest.tolist() == apart.argmin(1).tolist()


class Known(nn.Module):
    image_size, in_channels, conditioned = 8, 3, True

    def __init__(self, score):
        super().__init__()
        self.score = score

    def forward(self, x, sigma):
        return -self.score(x, sigma) * sigma[:, None, None, None]


def opened(monkeypatch, score):
    data = {"class_path": "Emoji", "init_args": {"num_train": 40, "num_test": 8, "image_size": 8}}
    trained = Trained(NoiseConditioned(Known(score), sigma_min=0.02, sigma_max=2.0), {"data": data}, 7, Path("a.ckpt"))
    monkeypatch.setitem(trajectories.__globals__, "open_checkpoints", lambda names: dict.fromkeys(names, trained))


def test_a_network_that_blends_gives_no_copies(monkeypatch):
    mean = (small().train.pixels.float() / 255).mean(0)
    opened(monkeypatch, lambda x, sigma: (mean - x) / sigma[:, None, None, None] ** 2)
    options = {"num_paths": 2, "dim": 48, "sigma_min": 0.1, "mix_sigma": 0.2}
    result = trajectories((5.0,), checkpoint="mine", pair=(3, 8), **options)
    images = [row for row in result.rows if row["kind"] == "image"]
    assert len(images) == 2 * 9
    assert min(row["ratio"] for row in images if row["score"] == "network mine") > 0.8
    exact = [row for row in images if row["score"] == "exact, conditioned"]
    assert max(row["ratio"] for row in exact) < 0.5
    assert (exact[0]["nearest"], exact[-1]["nearest"]) == (3, 8)
    assert result.findings[-1].held is True

    opened(monkeypatch, Conditioned(small().train.pixels))
    same = trajectories((5.0,), checkpoint="mine", pair=(3, 8), **options)
    assert same.findings[-1].held is False


def test_command_writes_the_figure(tmp_path, capsys):
    main(["analyze", "trajectories", "--temperatures", "[5]", "--dim", "48", "--num_paths", "3", "--sigma_min", "0.1",
          "--out", str(tmp_path)])  # fmt: skip
    assert "Fig. 1 a" in capsys.readouterr().out
    assert (tmp_path / "trajectories.png").read_bytes().startswith(b"\x89PNG")
    assert len((tmp_path / "trajectories.csv").read_text().splitlines()) == 1 + 3 * 3


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"temperatures": (-1.0,)}, "temperatures is -1.0"),
        ({"num_centers": 1}, "num_centers is 1"),
        ({"dim": 2}, "dim is 2"),
        ({"pair": (0, 1)}, "give a checkpoint too"),
        ({"checkpoint": "none.ckpt"}, "none.ckpt does not exist"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        trajectories(**options)


def test_bad_input_beside_a_checkpoint(monkeypatch):
    opened(monkeypatch, Unconditioned(small().train.pixels))
    for options, culprit in (
        ({"mix_sigma": 5.0}, "mix_sigma is 5, but checkpoint mine was trained on 0.02 to 2"),
        ({"pair": (0, 40)}, r"pair is \[0, 40\]: give rows of two different images, of 0 to 39"),
        ({"pair": (3, 3)}, "give rows of two different images"),
        ({"data": Emoji(image_size=16)}, r"mine takes images of shape \[3, 8, 8\]"),
    ):
        with pytest.raises(UserError, match=culprit):
            trajectories(checkpoint="mine", **options)
