"""The metric form of excess copies: batches, merging, copies of itself, several processes."""

import pickle

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import ExcessCopies, excess_copies
from smoothscore.functional.rows import unique_rows
from smoothscore.metrics import Copies


def spaces(rows: Tensor) -> dict[str, Tensor]:
    """In pixels, and by their colors."""
    decoded = rows.float() / 255 if rows.dtype == torch.uint8 else rows
    return {"pixels": rows, "colors": decoded.mean((2, 3))}


@pytest.fixture(scope="module")
def images(emoji: Tensor) -> Tensor:
    """Different emoji at 8 × 8, shuffled, uint8."""
    distinct = emoji[unique_rows(emoji)]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(distinct[order].float(), 4).round().byte()


@pytest.fixture(scope="module")
def sets(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """200 training images, 120 held-out ones, and 100 samples of which 25 are copies with noise."""
    samples = torch.cat([images[:25], images[400:475]]).float() / 255
    samples = samples + 0.01 * torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
    return images[:200], images[200:320], samples


@pytest.fixture(scope="module")
def expected(sets: tuple[Tensor, Tensor, Tensor]) -> ExcessCopies:
    train, held_out, samples = map(spaces, sets)
    return excess_copies(samples, train, held_out, seed=3)


def check(metric: Copies, expected: ExcessCopies, order: Tensor | slice = slice(None)) -> None:
    report = metric.report()
    for name in ("sample_p", "flagged", "nearest", "score"):
        torch.testing.assert_close(getattr(report, name), getattr(expected, name)[order], rtol=1e-6, atol=1e-6)
    assert (report.p_value, report.label_p_value, report.excess) == (
        expected.p_value,
        expected.label_p_value,
        expected.excess,
    )
    figures = {name: float(value) for name, value in metric.compute().items()}
    assert figures == pytest.approx(
        {
            "p_value": expected.p_value,
            "label_p_value": expected.label_p_value,
            "excess": expected.excess,
            "excess_low": expected.interval[0],
            "excess_high": expected.interval[1],
            "flagged": int(expected.flagged.sum()) / len(expected.flagged),
        },
        rel=1e-6,
    )


def test_batches_equal_the_function(sets, expected):
    train, held_out, samples = sets
    metric = Copies(spaces(train), spaces(held_out), seed=3)
    for part in samples.split(17):
        metric.update(spaces(part))
    assert 0.15 < expected.excess < 0.4
    assert max(expected.p_value, expected.label_p_value) < 0.01
    assert int(expected.flagged.sum()) >= 20
    check(metric, expected)


def test_reset_pickle_clone_forward_and_merge(sets, expected):
    train, held_out, samples = sets
    metric = Copies(spaces(train), spaces(held_out), seed=3)
    metric.update(spaces(samples[:30]))
    for other in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        other.update(spaces(samples[30:]))
        check(other, expected)
    second = Copies(spaces(train), spaces(held_out), seed=3)
    batch = second(spaces(samples[30:]))  # forward: the batch's own value
    own = excess_copies(*map(spaces, (samples[30:], train, held_out)), seed=3)
    assert float(batch["excess"]) == pytest.approx(own.excess)
    second.merge_state(metric)
    assert len(second.report().score) == len(samples)
    assert second.report().p_value == expected.p_value
    metric.reset()
    metric.update(spaces(samples))
    check(metric, expected)


def test_half_precision_of_the_owner_leaves_figures_alone(sets, expected):
    train, held_out, samples = sets
    owner = torch.nn.ModuleDict({"metric": Copies(spaces(train), spaces(held_out), seed=3)}).half()
    owner["metric"].update(spaces(samples))
    check(owner["metric"], expected)


def test_a_copycat_scores_all_and_held_out_images_the_null(images):
    metric = Copies(spaces(images[:400]), spaces(images[400:800]))
    metric.update(spaces(images[:400].float() / 255))
    copycat = metric.compute()
    assert (float(copycat["excess"]), float(copycat["flagged"])) == (1, 1)
    assert float(copycat["p_value"]) == float(copycat["label_p_value"]) == pytest.approx(1e-4)
    metric.reset()
    metric.update(spaces(images[800:1200].float() / 255))
    null = metric.compute()
    assert null["excess_low"] <= 0 <= null["excess_high"]
    assert min(float(null["p_value"]), float(null["label_p_value"])) > 0.01
    assert float(null["flagged"]) == 0


def test_errors(sets):
    train, held_out, samples = sets
    metric = Copies(spaces(train), spaces(held_out))
    with pytest.raises(UserError, match=r"samples have the spaces \['pixels'\], train \['pixels', 'colors'\]"):
        metric.update({"pixels": samples})
    broken = samples.clone()
    broken[7, 0, 0, 0] = torch.nan
    with pytest.raises(UserError, match=r"samples \(pixels\): row 7"):
        metric.update(spaces(broken))
    with pytest.raises(UserError, match="samples: 0 row"), pytest.warns(UserWarning, match="before"):
        Copies(spaces(train), spaces(held_out)).compute()


CUTS = (37, 0)  # unequal shares; a process without any samples


def _work(rank: int, folder: str, sets: tuple[Tensor, Tensor, Tensor]) -> None:
    train, held_out, samples = sets
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for cut in CUTS:
        metric = Copies(spaces(train), spaces(held_out), seed=3)
        for part in (samples[:cut] if rank == 0 else samples[cut:]).split(29):
            if len(part):
                metric.update(spaces(part))
        figures = {name: float(value) for name, value in metric.compute().items()}
        report = metric.report()
        torch.save((figures, report.score, report.nearest), f"{folder}/{cut}-{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.distributed
def test_two_processes_equal_one(sets, expected, tmp_path):
    mp.spawn(_work, (str(tmp_path), sets), nprocs=2)
    train, held_out, samples = sets
    metric = Copies(spaces(train), spaces(held_out), seed=3)
    metric.update(spaces(samples))
    single = {name: float(value) for name, value in metric.compute().items()}
    for cut in CUTS:
        for rank in range(2):
            figures, score, nearest = torch.load(tmp_path / f"{cut}-{rank}.pt", weights_only=True)
            assert figures == single
            torch.testing.assert_close(score, expected.score, rtol=1e-6, atol=1e-6)
            assert torch.equal(nearest, expected.nearest)
