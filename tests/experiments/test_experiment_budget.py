"""`analyze budget` against measures made by hand, kept samples, estimates against brute force, and bad input."""

import pytest
import torch

from smoothscore.cli import main
from smoothscore.data import Emoji, equal_reference_rows
from smoothscore.errors import UserError
from smoothscore.experiments import budget
from smoothscore.experiments.draws import RECOMMENDED, REFERENCE, SAMPLERS, open_model
from smoothscore.experiments.estimates import estimate_rows
from smoothscore.functional import frechet_from_features, memorization_ratio
from smoothscore.neighbors import Pixels
from smoothscore.samplers import PredictorCorrector, ProbabilityFlow, Sampler
from smoothscore.score import Unconditioned


def small():
    return Emoji(num_train=20, num_test=20, image_size=8)


NAMES = (REFERENCE, "multistep", RECOMMENDED)
OPTIONS = {"names": NAMES, "reference": 12, "goal": 6, "num_samples": 8, "seed": 3}


@pytest.fixture(scope="module")
def result():
    return budget((6, 9), data=small(), extractor=Pixels(), **OPTIONS)


def test_rows_are_what_the_samplers_give(result):
    model = open_model(None, small())
    train, test = model.data.train, model.data.test
    rows = equal_reference_rows(train.labels, test.labels)
    found = {(row["sampler"], row["budget"]): row for row in result.rows if row["kind"] == "budget"}
    assert set(found) == {(name, n) for name in NAMES for n in (6, 9)} | {(REFERENCE, 12)}
    for (name, number), row in found.items():
        sampler = SAMPLERS[name](number).bind(model.sigma_min, model.sigma_max, train.pixels)
        with pytest.warns(UserWarning, match="schedule alone") if name == "multistep" else torch.no_grad():
            images = sampler.sample(model.score, (8, 3, 8, 8), range(3, 11))
        assert row["nfe"] == sampler.nfe <= number
        features = images.clamp(0, 1).flatten(1)
        for side, reference in (("train", train.pixels[rows[0]]), ("test", test.pixels[rows[1]])):
            expected = frechet_from_features(reference.flatten(1).float() / 255, features)
            assert row[f"frechet_{side}"] == pytest.approx(float(expected), rel=1e-4)
        assert row["memorized"] == float((memorization_ratio(images, train.pixels) < 2 / 3).double().mean())
        assert row["memorized_low"] <= row["memorized"] <= row["memorized_high"]


def test_the_goal_is_judged_by_the_rows(result):
    found = {(row["sampler"], row["budget"]): row["frechet_test"] for row in result.rows if row["kind"] == "budget"}
    goal, flows = result.findings[:2]
    assert goal.held == (found[RECOMMENDED, 6] <= 1.05 * found[REFERENCE, 12])
    assert flows.held == (found["multistep", 6] > 1.05 * found[REFERENCE, 12])


def test_a_goal_that_is_missed_is_said_to_be(monkeypatch):
    monkeypatch.setitem(SAMPLERS, RECOMMENDED, lambda n: ProbabilityFlow(2))
    result = budget((6,), data=small(), extractor=Pixels(), **OPTIONS)
    found = {(row["sampler"], row["budget"]): row["frechet_test"] for row in result.rows if row["kind"] == "budget"}
    assert found[RECOMMENDED, 6] > 1.05 * found[REFERENCE, 12]
    assert result.findings[0].held is False


def test_every_sampler_takes_the_evaluations_it_is_given():
    model = open_model(None, small())
    for name, make in SAMPLERS.items():
        sampler = make(20).bind(model.sigma_min, model.sigma_max, model.data.train.pixels)
        if sampler.trusts_schedule:
            with pytest.warns(UserWarning, match="steps by its schedule alone"):
                sampler.sample(model.score, (2, 3, 8, 8), [0, 1])
        else:
            sampler.sample(model.score, (2, 3, 8, 8), [0, 1])
        if name == "flow, rk45":
            assert sampler.nfe % 6 == 2, name  # a start, whole tries, and the last step
            continue
        assert sampler.nfe <= 20, name
        assert sampler.nfe >= 18 or name == "gradient ascent", name  # which ends when σ* is small


def test_kept_samples_are_read_and_not_drawn_again(result, tmp_path, monkeypatch):
    options = {"data": small(), "extractor": Pixels(), "keep": str(tmp_path), **OPTIONS}
    first = budget((6, 9), **options)
    monkeypatch.setattr(Sampler, "sample", lambda *_, **__: pytest.fail("drawn again"))
    second = budget((6, 9), **options)
    for one, other, plain in zip(first.rows, second.rows, result.rows, strict=True):
        if one["kind"] == "budget":
            assert one == other == plain
    with pytest.raises(UserError, match="seed"):
        budget((6, 9), **options | {"seed": 4})
    monkeypatch.setitem(SAMPLERS, REFERENCE, lambda n: PredictorCorrector(n // 2, snr=0.2))
    with pytest.raises(UserError, match="work for other sampler"):
        budget((6, 9), **options)


def test_a_walk_that_leaves_the_finite_numbers_is_a_row_that_says_where(monkeypatch):
    class Broken(ProbabilityFlow):
        def walk(self, score, x, noise):
            for step in super().walk(score, x, noise):
                yield step._replace(x=step.x / 0)

    monkeypatch.setitem(SAMPLERS, "multistep", Broken)
    result = budget((6,), data=small(), extractor=Pixels(), **OPTIONS)
    (row,) = [row for row in result.rows if row["sampler"] == "multistep"]
    assert row["failed"].startswith("sampling left the finite numbers at step 1")
    assert row["frechet_test"] is None
    assert "multistep left the finite numbers" in result.summary


def test_estimates_of_noise_against_brute_force_and_the_truth():
    data = small()
    train = data.train.pixels.double() / 255
    exact = Unconditioned(data.train.pixels)
    seen = []

    def score(x, sigma):
        seen.append(x)
        return exact(x)

    rows = estimate_rows(score, data, 0.02, 10.0, seed=0)
    assert len(rows) == 26
    states = {id(x): x for x in seen}.values()
    assert len(states) == 26
    center = train.mean(0)
    for row, x in zip(rows, states, strict=True):
        star = torch.cdist(x.double().flatten(1), train.flatten(1)).amin(1) / 192**0.5
        assert row["searched"] == pytest.approx(float(star.float().median()), rel=1e-4)
        s = exact(x).double().flatten(1)
        told = -((x.double() - center).flatten(1) * s).sum(1) / s.norm(dim=1) / 192**0.5
        assert row["projected"] == pytest.approx(float(told.float().median()), rel=1e-3)
        assert row["searched_error"] == pytest.approx(float((star / row["sigma"] - 1).abs().float().median()), abs=1e-3)
        if row["sigma"] > 1:
            assert row["projected_error"] < 0.1  # 1/√(2d) = 0.05, and half of them beyond two thirds of that
    above = [row for row in rows if row["images"] == "held-out" and row["sigma"] < 0.05]
    assert all(row["searched"] > 2 * row["sigma"] for row in above)  # the nearest image is another one


def test_command(tmp_path, capsys):
    options = ["--budgets", "[4]", "--reference", "8", "--goal", "4", "--num_samples", "4", "--names", '["SDE (PC)"]']
    data = ["--data", "Emoji", "--data.num_train", "20", "--data.num_test", "20", "--data.image_size", "8"]
    main(["analyze", "budget", *options, *data, "--extractor", "Pixels", "--out", str(tmp_path)])
    assert "error of the noise level" in capsys.readouterr().out
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"budgets": ()}, "budgets is empty"),
        ({"budgets": (2,)}, "2 evaluations are too few"),
        ({"reference": 3}, "3 evaluations are too few"),
        ({"num_samples": 1}, "num_samples is 1"),
        ({"names": ("Euler",)}, 'no sampler "Euler"; choose among SDE'),
        ({"checkpoint": "nowhere.ckpt"}, "nowhere.ckpt does not exist"),
    ],
)
def test_bad_input(options, culprit):
    with pytest.raises(UserError, match=culprit):
        budget(**{"data": small()} | options)


def test_the_recommended_one_keeps_the_level():
    walk = SAMPLERS[RECOMMENDED](50).sampler
    assert isinstance(walk, PredictorCorrector)
    assert (walk.num_levels, walk.corrector_steps, walk.corrector) == (16, 2, "ornstein_uhlenbeck")
