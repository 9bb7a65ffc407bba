"""All measures from one feature pass: equal to the functions, in batches, from two processes, at their controls."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import (
    auth_pct,
    c_t,
    calibrated_distance,
    excess_copies,
    frechet_bias,
    frechet_from_features,
    kernel_distance,
    memorization_report,
    mifid,
    prdc,
    vendi,
)
from smoothscore.functional.rows import unique_rows
from smoothscore.metrics import MEASURES, FeatureMeasures, GeneratedImages

CALLS: list[int] = []


def pooled(images: Tensor) -> Tensor:
    CALLS.append(len(images))
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    return torch.nn.functional.avg_pool2d(scaled, 8).flatten(1)  # 48 features


@pytest.fixture(scope="module")
def images(emoji: Tensor) -> Tensor:
    distinct = emoji[unique_rows(emoji)]
    return distinct[torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))]


def measures_of(images: Tensor, **options: object) -> GeneratedImages:
    options = {"measures": MEASURES} | options
    return GeneratedImages(
        images[:400],
        images[400:800],
        featurize=pooled,
        name="pooled",
        reference_train=torch.arange(0, 400, 2),
        reference_test=torch.arange(1, 400, 2),
        **options,
    )


@pytest.fixture(scope="module")
def samples(images: Tensor) -> Tensor:
    """60 copies and 90 fresh images, jittered, beyond [0, 1] here and there."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.cat([images[:60], images[800:890]]).float() / 255
    return chosen + 0.02 * torch.randn(chosen.shape, generator=generator)


def test_figures_equal_the_functions(images, samples):
    measures = measures_of(images)
    CALLS.clear()
    for part in samples.split(40):
        measures.update(part)
    assert CALLS == [40, 40, 40, 30]  # every image is featurised once, whatever is measured
    figures = {name: float(value) for name, value in measures.compute().items()}
    train, test = images[:400], images[400:800]
    features = pooled(samples.clamp(0, 1))
    all_train, all_test = pooled(train), pooled(test)
    reference_train, reference_test = all_train[::2], all_test[1::2]
    pixels, among = (memorization_report(*sets) for sets in ((samples, train), (features, all_train)))
    control = memorization_report(samples, train, control=test)
    copies = excess_copies(
        *(
            {"pixels": one, "pooled": other}
            for one, other in ((samples, features), (train, all_train), (test, all_test))
        )
    )
    to_train, to_test = (float(frechet_from_features(part, features)) for part in (reference_train, reference_test))
    expected = {
        "memorization/fraction": pixels.fraction,
        "memorization/low": pixels.interval[0],
        "memorization/below_half": pixels.counts[1] / 150,
        "memorization/below_third": pixels.counts[0] / 150,
        "memorization/held_out": control.control.fraction,
        "memorization/difference": control.difference,
        "memorization/difference_high": control.difference_interval[1],
        "memorization/features_fraction_pooled": among.fraction,
        "memorization/features_min_ratio_pooled": among.minimum,
        "memorization/calibrated": float((calibrated_distance(samples, train) < 1).double().mean()),
        "memorization/calibrated_held_out": float((calibrated_distance(test, train) < 1).double().mean()),
        "copies/p_value_pooled": copies.p_value,
        "copies/label_p_value_pooled": copies.label_p_value,
        "copies/excess_pooled": copies.excess,
        "copies/excess_low_pooled": copies.interval[0],
        "copies/excess_high_pooled": copies.interval[1],
        "copies/flagged_pooled": float(copies.flagged.double().mean()),
        "frechet/train_pooled": to_train,
        "frechet/test_pooled": to_test,
        "frechet/ratio_pooled": to_test / to_train,
        "kernel/train_pooled": kernel_distance(reference_train, features).mean,
        "kernel/test_pooled": kernel_distance(reference_test, features).mean,
        "diversity/vendi_pooled": vendi(features),
        "authenticity/auth_pct_pooled": auth_pct(all_train, features),
        "authenticity/c_t_pooled": c_t(all_train, all_test, features, cells=3).z,
        "authenticity/mifid_pooled": mifid(all_train, features).value,
        **{f"prdc/{name}_pooled": value for name, value in prdc(reference_test, features)._asdict().items()},
    }
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    groups = {name.split("/")[0] for name in figures}
    assert groups == {"memorization", "copies", "frechet", "prdc", "kernel", "authenticity", "diversity"}
    measures.reset()
    measures.update(samples)
    again = {name: float(value) for name, value in measures.compute().items()}
    assert again == pytest.approx(figures, rel=1e-6)


def test_references_are_factored_once_and_only_for_what_is_measured(images, samples, monkeypatch):
    from smoothscore.functional import FrechetReference
    from smoothscore.functional.balls import Balls

    counts = {"factor": 0, "balls": 0}
    factor, init = FrechetReference.from_features.__func__, Balls.__init__

    def counted(cls, features):
        counts["factor"] += 1
        return factor(cls, features)

    def made(self, name, rows, k):
        counts["balls"] += name == "test"
        init(self, name, rows, k)

    monkeypatch.setattr(FrechetReference, "from_features", classmethod(counted))
    monkeypatch.setattr(Balls, "__init__", made)
    CALLS.clear()
    measures = measures_of(images, measures=("prdc", "kernel"))
    assert CALLS == [200, 200]  # the references alone
    for _ in range(3):  # three validations
        measures.update(samples)
        figures = measures.compute()
        measures.reset()
    assert counts == {"factor": 2, "balls": 1}
    assert {name.split("/")[0] for name in figures} == {"memorization", "frechet", "prdc", "kernel"}


def test_controls(images):
    """Copies score 100 % and their own measures; held-out images score the null everywhere."""
    measures = measures_of(images)
    generator = torch.Generator().manual_seed(0)
    copies = images[:200].float() / 255 + 0.005 * torch.randn(200, 3, 32, 32, generator=generator)
    measures.update(copies)
    copycat = {name: float(value) for name, value in measures.compute().items()}
    measures.reset()
    assert copycat["memorization/fraction"] == copycat["memorization/calibrated"] == 1
    assert copycat["memorization/features_fraction_pooled"] == 1
    assert copycat["authenticity/auth_pct_pooled"] == 0
    assert copycat["authenticity/c_t_pooled"] < -4
    assert copycat["copies/excess_pooled"] == copycat["copies/flagged_pooled"] == 1
    assert copycat["copies/label_p_value_pooled"] < 0.001
    measures.update(images[800:1000].float() / 255)
    null = {name: float(value) for name, value in measures.compute().items()}
    assert null["memorization/difference_low"] <= 0 <= null["memorization/difference_high"]
    assert abs(null["authenticity/c_t_pooled"]) < 2.5
    assert null["copies/excess_low_pooled"] <= 0 <= null["copies/excess_high_pooled"]
    assert min(null["copies/p_value_pooled"], null["copies/label_p_value_pooled"]) > 0.05
    assert null["authenticity/auth_pct_pooled"] > 40
    assert abs(null["kernel/test_pooled"]) < 0.1 * copycat["authenticity/mifid_pooled"]
    assert null["authenticity/mifid_pooled"] < 0.2 * copycat["authenticity/mifid_pooled"]


def test_too_few_images_are_warned_about_with_an_estimate(images):
    measures = measures_of(images, measures=())
    measures.update(images[800:830].float() / 255)
    with pytest.warns(UserWarning, match="48 features, but only 30 samples and 200 reference images") as caught:
        figures = measures.compute()
    expected = frechet_bias(pooled(images[400:800])[1::2], 30)
    assert float(figures["frechet/bias_pooled"]) == pytest.approx(expected)
    assert any(f"are {expected:.3g} apart, not 0" in str(warning.message) for warning in caught)
    assert float(figures["frechet/test_pooled"]) == pytest.approx(expected, rel=0.5)
    measures.update(images[830:900].float() / 255)
    assert "frechet/bias_pooled" not in measures.compute()


def test_few_samples_leave_out_what_they_cannot_say(images):
    measures = measures_of(images)
    measures.update(images[800:803].float() / 255)
    with pytest.warns(UserWarning, match="biased"):
        figures = measures.compute()
    assert "kernel/test_pooled" in figures
    assert not any(name.startswith("prdc") for name in figures)
    assert all(math.isfinite(value) for value in figures.values())


@pytest.mark.parametrize(("held_out", "measures", "logged"), [(29, MEASURES, 0), (30, MEASURES, 6), (30, ("prdc",), 0)])
def test_excess_copies_take_30_held_out_images_and_all_features(images, samples, held_out, measures, logged):
    measured = GeneratedImages(
        images[:100],
        images[400 : 400 + held_out],
        featurize=pooled,
        name="pooled",
        reference_train=torch.arange(held_out),
        reference_test=torch.arange(held_out),
        measures=measures,
    )
    measured.update(samples)
    with pytest.warns(UserWarning, match="biased"):
        names = measured.compute()
    assert len([name for name in names if name.startswith("copies/")]) == logged


def test_errors(images, samples):
    with pytest.raises(UserError, match=r'there is no "fid"; choose among prdc, kernel, diversity, authenticity'):
        measures_of(images, measures=("fid",))
    with pytest.raises(UserError, match="needs the features of all training"):
        FeatureMeasures(torch.rand(5, 2), torch.rand(5, 2))
    with pytest.raises(UserError, match="test: 3 features per row, but train has 2"):
        FeatureMeasures(torch.rand(5, 2), torch.rand(5, 3), measures=())
    broken = samples.clone()
    broken[4, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match="samples: row 4"):
        measures_of(images).update(broken)
    metric = FeatureMeasures(torch.rand(9, 2), torch.rand(9, 2), measures=("kernel",))
    with pytest.raises(UserError, match="features: row 1"):
        metric.update(torch.tensor([[0.0, 1.0], [torch.nan, 0.0]]))


def test_half_precision_of_the_owner_leaves_figures_alone():
    generator = torch.Generator().manual_seed(0)
    train, test, drawn = torch.randn(3, 40, 6, generator=generator)
    metric = FeatureMeasures(train, test, measures=("prdc", "kernel", "diversity"))
    owner = torch.nn.ModuleDict({"metric": metric}).half()
    owner["metric"].update(drawn)
    expected = (prdc(test, drawn).coverage, kernel_distance(train, drawn).mean)
    figures = owner["metric"].compute()
    assert (float(figures["prdc/coverage"]), float(figures["kernel/train"])) == pytest.approx(expected, rel=1e-6)


def _work(rank: int, folder: str, images: Tensor, samples: Tensor) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for cut in (50, 0):
        measures = measures_of(images)
        share = samples[:cut] if rank == 0 else samples[cut:]
        if len(share):
            measures.update(share)
        torch.save({name: float(value) for name, value in measures.compute().items()}, f"{folder}/{cut}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one(images, samples, tmp_path):
    mp.spawn(_work, (str(tmp_path), images, samples), nprocs=2)
    measures = measures_of(images)
    measures.update(samples)
    expected = {name: float(value) for name, value in measures.compute().items()}
    for cut in (50, 0):
        for rank in range(2):
            figures = torch.load(tmp_path / f"{cut}-{rank}.pt", weights_only=True)
            assert figures == pytest.approx(expected, rel=1e-6)
