"""Dense data: what is dealt in every split, figures against brute force on it, laws of dense data, and bad input."""

import json

import pytest
import torch
from torch import Tensor

from smoothscore.cli import main
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.experiments import dense
from smoothscore.experiments.dense import KINDS, _dealt, _Sizes, _varied
from smoothscore.experiments.detection import LABELS, LEVEL, NEW, Detectors
from smoothscore.neighbors import Pixels

SMALL = {"extractor": Pixels(), "num_images": 60, "num_held_out": 90, "num_samples": 60, "num_splits": 1, "share": 0.2}


def small() -> Emoji:
    return Emoji(image_size=8, num_train=300, num_test=10)


def apart(one: Tensor, other: Tensor) -> Tensor:
    return torch.cdist(
        *(rows.double().flatten(1) for rows in (one, other)), compute_mode="donot_use_mm_for_euclid_dist"
    )


def test_figures_equal_brute_force_on_what_was_dealt(monkeypatch):
    made: list[Detectors] = []

    class Recorded(Detectors):
        def __init__(self, train, held_out, *, seed):
            self.looked: list[Tensor] = []
            super().__init__(train, held_out, seed=seed)
            self.train = train["pixels"]
            made.append(self)

        def look(self, images):
            self.looked.append(images["pixels"])
            return super().look(images)

    monkeypatch.setitem(dense.__globals__, "Detectors", Recorded)
    rows = {
        (row["kind"], row["variants"], row["noise"], row["measure"]): row
        for row in dense((1, 4), data=small(), noises=(0.001, 0.04), **SMALL).rows
    }
    assert [len(one.train) for one in made] == [60, 240, 60, 240]
    for one, (kind, count) in zip(made, [(kind, count) for kind in KINDS for count in (1, 4)], strict=True):
        held_out, fresh, *copies = one.looked
        assert [len(part) for part in (held_out, fresh, *copies)] == [90, 60, 12, 12]
        assert float(apart(held_out, fresh).min()) > 0
        assert float(apart(fresh, one.train).min()) > 0
        for noise, copied in zip((0.001, 0.04), copies, strict=True):
            nearest = apart(copied, one.train).sort(1).values
            assert float(nearest[:, 0].max()) < 1.3 * noise * 192**0.5
            ratio, of_fresh = (near[:, 0] / near[:, 1] for near in (nearest, apart(fresh, one.train).sort(1).values))
            row = rows[kind, count, noise, "d1/d2 < 2/3 (pixels)"]
            assert row["copy_ratio"] == pytest.approx(float(ratio.median()), rel=1e-4)
            assert row["fresh_ratio"] == pytest.approx(float(of_fresh.median()), rel=1e-4)
            assert row["caught"] == pytest.approx(float((ratio < 2 / 3).double().mean()))
            assert row["false_caught"] == pytest.approx(float((of_fresh < 2 / 3).double().mean()))
        for verdict in one.judge([(Detectors.look(one, {"pixels": fresh}), slice(None))]):
            assert rows[kind, count, 0.04, verdict.detector]["false_alarm"] == (verdict.p_value <= LEVEL)
        assert rows[kind, count, 0.001, NEW]["caught"] == rows[kind, count, 0.001, NEW]["power"] == 1
        assert rows[kind, count, 0.04, LABELS]["caught"] is None
    # Twins hide a copy: the more variants of its source are trained on, the less nearer it is to its own.
    for kind in KINDS:
        ratios = [rows[kind, count, 0.04, NEW]["copy_ratio"] for count in (1, 4)]
        assert ratios[0] < ratios[1]


def test_variants_are_of_the_images_asked_for_and_weaker_ones_are_nearer():
    images = torch.rand(10, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    of = torch.tensor([3, 3, 0, 9, 5] * 5)
    off = {}
    for strength in (0.0, 1 / 3, 1.0):
        varied = _varied(images, of, strength, torch.Generator().manual_seed(1))
        assert varied.shape == (25, 3, 8, 8)
        assert 0 <= float(varied.min()) <= float(varied.max()) <= 1
        assert torch.equal(apart(varied, images).argmin(1), of)
        off[strength] = float((varied - images[of]).square().mean().sqrt())
    assert off[0.0] == pytest.approx(0.01, rel=0.1)
    assert off[0.0] < off[1 / 3] < off[1.0] < 0.3


def test_bursts_are_dealt_whole_and_variants_one_by_one():
    sizes = _Sizes(images=4, most=3, held_out=5, samples=6)
    for count in (1, 3):
        deal = torch.Generator().manual_seed(0)
        trained, held_out, drawn = _dealt("bursts", count, 12 + 20, sizes, deal)
        assert trained.tolist() == list(range(4 * count))
        assert int(torch.cat([held_out, drawn]).min()) >= 12
        assert (len(held_out), len(drawn), len(torch.cat([held_out, drawn]).unique())) == (5, 6, 11)
        parts = _dealt("variants", count, 12 + 22, sizes, deal)
        assert [len(part) for part in parts] == [4 * count, 5, 6]
        assert len(torch.cat(parts).unique()) == 4 * count + 11
        assert not torch.equal(parts[0], _dealt("variants", count, 12 + 22, sizes, deal)[0])


def test_command_writes_table_and_figure(tmp_path, capsys):
    sizes = ["--num_images=40", "--num_held_out=60", "--num_samples=40", "--num_splits=1", "--noises=[0.02]"]
    data = ["--data=Emoji", "--data.image_size=8", "--data.num_train=200", "--extractor=Pixels"]
    main(["analyze", "dense", "--variants=[1,2]", *sizes, *data, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "dense.json").read_text())
    assert {(row["kind"], row["variants"]) for row in report["rows"]} == {(kind, n) for kind in KINDS for n in (1, 2)}
    assert all((tmp_path / f"dense.{suffix}").stat().st_size for suffix in ("csv", "png", "svg"))
    assert "Excess copies accuse fresh images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"variants": ()}, "variants is empty"),
        ({"variants": (0, 2)}, "variants is 0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"share": 0.001}, "share is 0.001"),
        ({"num_images": 200}, "of the 300 different images"),
        ({"num_images": 10}, "twice as many as copies"),
        ({"noises": (-0.1,)}, "noises is -0.1"),
        ({"num_held_out": 12}, "at least 15 held-out images"),
    ],
)
def test_bad_input_is_named(options, culprit):
    with pytest.raises(UserError, match=culprit):
        dense(data=small(), **{**SMALL, **options})
