"""The metric form of memorization: batches, merging, copies of itself, several processes."""

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import memorization_report
from smoothscore.metrics import FrechetDistance, Memorization


@pytest.fixture(scope="module")
def samples(emoji: Tensor) -> Tensor:
    """60 copies with noise, some of them of duplicated rows, and 40 other images."""
    generator = torch.Generator().manual_seed(0)
    copies = emoji[1000:1060].float() / 255
    copies = copies + 0.02 * torch.randn(copies.shape, generator=generator)
    return torch.cat([copies, emoji[:40].float() / 255])


@pytest.fixture(scope="module")
def train(emoji: Tensor) -> Tensor:
    return torch.cat([emoji[900:1200], emoji[1000:1010]])


def equal_reports(one, two) -> bool:
    return (
        all(torch.equal(getattr(one, name), getattr(two, name)) for name in ("ratio", "distance", "nearest"))
        and (one.count, one.interval, one.counts) == (two.count, two.interval, two.counts)
        and (one.control_count, one.duplicates) == (two.control_count, two.duplicates)
    )


def test_batches_equal_the_function(samples, train, emoji):
    control = emoji[200:260]
    metric = Memorization(train, control=control, thresholds=(0.4, 0.6))
    for part in samples.split(17):
        metric.update(part)
    expected = memorization_report(samples, train, control=control, thresholds=(0.4, 0.6))
    assert expected.duplicates >= 10
    assert expected.count >= 60
    assert equal_reports(metric.report(), expected)
    figures = {name: float(value) for name, value in metric.compute().items()}
    assert figures == pytest.approx(
        {
            "fraction": expected.fraction,
            "low": expected.interval[0],
            "high": expected.interval[1],
            "mean": expected.mean,
            "minimum": expected.minimum,
        },
        rel=1e-6,
    )


def test_reset_pickle_clone_forward_and_merge(samples, train):
    metric = Memorization(train)
    metric.update(samples[:30])
    copied, cloned = pickle.loads(pickle.dumps(metric)), metric.clone()
    for other in (copied, cloned):
        other.update(samples[30:])
        assert equal_reports(other.report(), memorization_report(samples, train))
    assert len(metric.report().ratio) == 30
    second = Memorization(train)
    batch = second(samples[30:])  # forward: the batch's own value
    assert float(batch["fraction"]) == pytest.approx(memorization_report(samples[30:], train).fraction)
    second.merge_state(metric)
    assert second.report().count == memorization_report(samples, train).count
    metric.reset()
    metric.update(samples)
    assert equal_reports(metric.report(), memorization_report(samples, train))


def test_half_precision_of_the_owner_leaves_figures_alone(samples, train):
    owner = torch.nn.Module()
    owner.metric = Memorization(train)
    owner.half()
    owner.metric.update(samples)
    assert equal_reports(owner.metric.report(), memorization_report(samples, train))


def test_errors(samples, train):
    metric = Memorization(train)
    with pytest.raises(UserError, match="samples has rows of shape"):
        metric.update(samples[:, :1])
    with pytest.raises(UserError, match="samples: 0 row"), pytest.warns(UserWarning, match="before"):
        Memorization(train).compute()


def _work(rank: int, folder: str, train: Tensor, samples: Tensor, reference: Tensor) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for cut in CUTS:
        share = samples[:cut] if rank == 0 else samples[cut:]
        memorization, frechet = Memorization(train), FrechetDistance(reference)
        if len(share):
            memorization.update(share)
            for part in thumbnail(share).split(13):
                frechet.update(part)
        report = memorization.report()
        fraction = float(memorization.compute()["fraction"])
        # After the gathering, a process holds its own share again.
        assert sum(len(part) for part in memorization.ratio) == len(share)
        saved = (report.ratio, report.distance, report.nearest, fraction, float(frechet.compute()))
        torch.save(saved, f"{folder}/{cut}-{rank}.pt")
    dist.destroy_process_group()


CUTS = (37, 0)  # unequal shares; a process without any samples


def thumbnail(images: Tensor) -> Tensor:
    return images[:, :, ::8, ::8].flatten(1)


@pytest.mark.distributed
def test_two_processes_equal_one(samples, train, tmp_path):
    reference = thumbnail(train.float() / 255)
    mp.spawn(_work, (str(tmp_path), train, samples, reference), nprocs=2)
    expected = memorization_report(samples, train)
    single = FrechetDistance(reference)
    single.update(thumbnail(samples))
    for cut in CUTS:
        results = [torch.load(tmp_path / f"{cut}-{rank}.pt", weights_only=True) for rank in range(2)]
        for ratio, distance, nearest, fraction, frechet in results:
            assert torch.equal(ratio, expected.ratio)
            assert torch.equal(distance, expected.distance)
            assert torch.equal(nearest, expected.nearest)
            assert fraction == pytest.approx(expected.fraction, rel=1e-6)
            # Sums agree to 1e-15; blank pixels leave the covariance singular, which the root makes 1e-8.
            assert frechet == pytest.approx(float(single.compute()), rel=1e-7)
        assert results[0][4] == results[1][4]
