"""Excess copies: float64 brute force, exact laws of ranks, uniform p-values of fresh images, planted copies."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import CopyReference, excess_copies, memorization_ratio
from smoothscore.functional.excess import _excess
from smoothscore.functional.ranks import (
    conformal_p_values,
    false_discovery,
    hypergeometric_tail,
    lowest_ranks_test,
    marked_sum_test,
)
from smoothscore.functional.rows import unique_rows

stats = pytest.importorskip("scipy.stats")


@pytest.fixture(scope="module")
def images(emoji: Tensor) -> Tensor:
    """1,407 different emoji at 8 × 8, shuffled: [n, 3, 8, 8]."""
    distinct = emoji[unique_rows(emoji)]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.avg_pool2d(distinct[order].float() / 255, 4)


def spaces(rows: Tensor) -> dict[str, Tensor]:
    return {"pixels": rows, "colors": rows.mean((2, 3))}


def apart(one: Tensor, other: Tensor) -> Tensor:
    flat = [rows.double().flatten(1) for rows in (one, other)]
    return torch.cdist(*flat, compute_mode="donot_use_mm_for_euclid_dist")


def plain_scores(samples: Tensor, train: Tensor, held_out: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Scores of samples and of calibration images in one space, one image at a time."""
    order = torch.randperm(len(held_out), generator=torch.Generator().manual_seed(0))
    reference, rest = held_out[order[: len(order) // 3]], held_out[order[len(order) // 3 :]]

    def t_and_s(rows: Tensor, leave_out: bool = False) -> list[list[tuple[float, float]]]:
        found: list[list[tuple[float, float]]] = [[], []]
        for number, row in enumerate(rows):
            near = [j for j in range(len(reference)) if not (leave_out and j == number)]
            first, second = apart(row[None], train)[0].sort().values[:2].tolist()
            density = float(apart(row[None], reference[near])[0].sort().values[:k].mean())
            for part, s in zip(found, (density, second), strict=True):
                part.append((math.log(max(first / s, 0.01)), math.log(s)))
        return found

    def z(rows: Tensor) -> Tensor:
        values = []
        for fitted, part in zip(t_and_s(reference, leave_out=True), t_and_s(rows), strict=True):
            t, log_s = zip(*fitted, strict=True)
            line = stats.linregress(log_s, t)
            rest_of = [a - line.intercept - line.slope * b for a, b in fitted]
            deviation = float(torch.tensor(rest_of, dtype=torch.float64).std())
            values.append([(a - line.intercept - line.slope * b) / deviation for a, b in part])
        return torch.tensor(values, dtype=torch.float64).amin(0)

    return z(samples), z(rest)


@pytest.mark.parametrize("k", [1, 4])
def test_scores_p_values_and_neighbors_equal_brute_force(images, k):
    train, held_out = images[:150], images[150:240]
    samples = torch.cat([images[240:270], train[:3], train[3:8] + 0.02])
    result = excess_copies(spaces(samples), spaces(train), spaces(held_out), neighbors=k, draws=99)
    parts = [plain_scores(*(spaces(rows)[name] for rows in (samples, train, held_out)), k) for name in spaces(train)]
    z = torch.stack([part for part, _ in parts])
    expected, which = z.min(0)
    calibration = torch.stack([part for _, part in parts]).amin(0)
    torch.testing.assert_close(result.score, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.calibration, calibration, rtol=1e-4, atol=1e-4)
    p = [(1 + int((calibration <= own).sum())) / (len(calibration) + 1) for own in expected]
    assert result.sample_p.tolist() == pytest.approx(p)
    nearest = torch.stack([apart(spaces(samples)[name], spaces(train)[name]).argmin(1) for name in spaces(train)])
    assert torch.equal(result.nearest, nearest.gather(0, which[None])[0])
    assert result.nearest[30:38].tolist() == list(range(8))


def test_place_and_weight_equal_brute_force(images):
    train, held_out, samples = images[:150], images[150:240], images[240:300]
    scores = CopyReference(train, held_out).score(samples)
    distance, index = apart(samples, torch.cat([train, held_out])).sort(1)
    assert torch.equal(scores.place[:, 0], index[:, 0])
    expected = (distance[:, :10].mean(1) / distance[:, 0]).log()
    torch.testing.assert_close(scores.weight[:, 0], expected, rtol=1e-5, atol=1e-6)


def test_looking_in_parts_changes_nothing(images):
    train, held_out, samples = images[:150], images[150:240], images[240:300]
    reference = CopyReference(spaces(train), spaces(held_out))
    whole = reference.score(spaces(samples))
    parts = [reference.score(spaces(part)) for part in samples.split(23)]
    for name, values in whole._asdict().items():
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), values, rtol=1e-6, atol=1e-6)


def test_neither_scale_nor_shift_nor_eight_bits_matter(images):
    sets = [(255 * rows).round() for rows in (images[240:300], images[:150], images[150:240])]
    plain = excess_copies(*(rows.byte() for rows in sets), draws=99)
    moved = excess_copies(*(7 * rows - 3 for rows in sets), draws=99)
    assert torch.equal(plain.sample_p, moved.sample_p)
    torch.testing.assert_close(plain.score, moved.score, rtol=1e-4, atol=1e-4)
    assert plain.label_p_value == moved.label_p_value


def draw(count: int, generator: torch.Generator) -> Tensor:
    """From a density that varies a hundredfold, in 6 dimensions."""
    scale = 10 ** (2 * torch.rand(count, 1, generator=generator) - 1)
    return scale * torch.randn(count, 6, generator=generator) + 3 * scale


def fresh_p_values(splits: int) -> tuple[Tensor, Tensor, Tensor]:
    one, model, label = [], [], []
    generator = torch.Generator().manual_seed(1)
    for seed in range(splits):
        train, held_out, samples = (draw(count, generator) for count in (120, 90, 40))
        two = [{"all": rows, "some": rows[:, :2]} for rows in (samples, train, held_out)]
        result = excess_copies(*two, draws=199, seed=seed)
        one.append(result.sample_p[0])
        model.append(result.p_value)
        label.append(result.label_p_value)
    return torch.stack(one), torch.tensor(model), torch.tensor(label)


@pytest.mark.parametrize("splits", [150, pytest.param(3000, marks=pytest.mark.slow)])
def test_p_values_of_fresh_images_are_uniform(splits):
    generator = torch.Generator().manual_seed(2)
    sample, model, label = (p.double() for p in fresh_p_values(splits))
    # The rank test has few outcomes, so that its p-values may be too large: their law is that of plain random scores.
    random = torch.rand(splits, 100, generator=generator, dtype=torch.float64)
    law = [lowest_ranks_test(row[:40], row[40:], draws=199, seed=seed) for seed, row in enumerate(random)]
    assert stats.ks_2samp(model.numpy(), law).pvalue > 0.01
    for p, step, alternative in (
        (sample, 1 / 61, "two-sided"),
        (model, 1 / 200, "greater"),
        (label, 1 / 200, "two-sided"),
    ):
        jittered = p - step * torch.rand(splits, generator=generator)  # p-values lie on a grid
        assert stats.kstest(jittered.numpy(), "uniform", alternative=alternative).pvalue > 0.01
        assert abs(float((p <= 0.05).double().mean()) - 0.04) <= 0.01 + 3 * (0.05 / splits) ** 0.5


def test_p_values_hold_at_every_density():
    """Matched: the sparse and the dense third of fresh images are called copies equally often."""
    generator = torch.Generator().manual_seed(3)
    low = torch.zeros(3)
    for seed in range(20):
        train, held_out, samples = (draw(count, generator) for count in (300, 300, 300))
        p = excess_copies(samples, train, held_out, draws=9, seed=seed).sample_p
        order = samples.norm(dim=1).argsort()
        low += torch.stack([(p[part] <= 0.1).double().mean() for part in order.chunk(3)]).float() / 20
    assert float((low - 0.1).abs().max()) < 0.04


def test_fresh_emoji_are_seldom_called_copies(images):
    """Real images in two spaces, 40 splits: at level 5 %, 2 are expected, and more than 6 have a chance of 0.3 %."""
    called, named, covered = [], 0, 0
    for seed in range(40):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        parts = [spaces(images[rows]) for rows in (order[:250], order[250:650], order[650:900])]
        result = excess_copies(*parts, draws=199)
        called.append((result.p_value <= 0.05, result.label_p_value <= 0.05))
        named += int(result.flagged.any())
        covered += result.interval[0] <= 0 <= result.interval[1]
    assert torch.tensor(called).sum(0).max() <= 6
    assert named <= 10  # 10 % is the bound on the share of sets with any, where all are fresh
    assert covered >= 34


def test_planted_copies_are_found_counted_and_named(images):
    train, held_out, fresh = images[:500], images[500:900], images[900:1300]
    noise = 0.02 * torch.randn(80, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixed = torch.cat([train[:80] + noise, fresh[80:]])
    found = excess_copies(spaces(mixed), spaces(train), spaces(held_out))
    assert found.p_value <= 0.001
    assert found.label_p_value <= 0.01
    assert found.interval[0] <= 0.2 <= found.interval[1]
    assert float(found.flagged[:80].double().mean()) > 0.75
    assert float((~(torch.arange(400) < 80))[found.flagged].double().mean()) < 0.2
    copies = excess_copies(spaces(train), spaces(train), spaces(held_out))
    assert copies.excess == pytest.approx(1)
    assert bool(copies.flagged.all())
    assert copies.p_value == copies.label_p_value == 1e-4


def test_copies_of_held_out_images_speak_for_no_training(images):
    held_out = images[500:900]
    for copied in (held_out[:1], held_out[-1:], held_out):
        assert excess_copies(copied, images[:500], held_out).label_p_value == 1


def test_twins_in_the_training_set_hide_a_copy_from_the_ratio_only(images):
    generator = torch.Generator().manual_seed(0)
    one = images[:400]
    train = torch.cat([one, one + 0.01 * torch.randn(one.shape, generator=generator)])
    samples = one[:100] + 0.01 * torch.randn(100, 3, 8, 8, generator=generator)
    assert float((memorization_ratio(samples, train) < 2 / 3).double().mean()) < 0.2
    assert float((excess_copies(samples, train, images[400:800]).sample_p < 0.05).double().mean()) > 0.9


def test_labels_acquit_a_model_that_draws_one_image_the_ranks_do_not(images):
    """All samples equal a point that happens to lie near one training image: one coincidence, not 200."""
    train, held_out = images[:500], images[500:900]
    reference = CopyReference(train, held_out)
    fresh = images[900:]
    one = fresh[reference.score(fresh).score.argmin()]
    result = reference.report(reference.score(one.expand(200, -1, -1, -1)))
    assert result.p_value < 0.01
    assert result.label_p_value > 0.05


def test_hypergeometric_tail_equals_scipy():
    for count, drawn, marked, total in [(0, 5, 3, 20), (3, 10, 6, 25), (6, 10, 6, 25), (7, 10, 6, 25), (2, 19, 4, 20)]:
        expected = stats.hypergeom.sf(count - 1, total, marked, drawn)
        assert hypergeometric_tail(count, drawn, marked, total) == pytest.approx(expected, abs=1e-12)


def test_lowest_ranks_test_equals_the_enumeration_of_all_orders():
    n, m = 4, 5
    places = [1, 2]

    def tails(labels: tuple[bool, ...]) -> float:  # labels: in ascending order, whether each score is a sample's
        found = []
        for place in places:
            at = [i for i, sample in enumerate(labels) if not sample][place - 1]
            below = sum(labels[:at])
            found.append(stats.hypergeom.cdf(place - 1, n + m, m, below + place - 1) if below else 1.0)
        return min(found)

    every = [tuple(i in chosen for i in range(n + m)) for chosen in itertools.combinations(range(n + m), n)]
    smallest = torch.tensor([tails(labels) for labels in every])
    for labels in every[::9]:
        score = torch.arange(n + m, dtype=torch.float64)
        own = torch.tensor(labels)
        expected = float((smallest <= tails(labels) + 1e-9).double().mean())
        assert lowest_ranks_test(score[own], score[~own]) == pytest.approx(expected, abs=0.02)


def test_marked_sum_test_equals_the_enumeration_of_all_marks():
    amount, total, num_marked = torch.tensor([5.0, 3.0, 1.0, 1.0]), 7, 3
    every = [sum(amount.tolist()[i] for i in c if i < 4) for c in itertools.combinations(range(total), num_marked)]
    for marked in ([True, True, False, False], [False, True, True, True], [False] * 4):
        found = float(amount[torch.tensor(marked)].sum())
        expected = sum(value >= found for value in every) / len(every)
        assert marked_sum_test(amount, torch.tensor(marked), num_marked, total) == pytest.approx(expected, abs=0.02)
    assert marked_sum_test(amount[:0], torch.zeros(0, dtype=torch.bool), 3, 7) == 1
    alone = marked_sum_test(amount[:1], torch.tensor([True]), num_marked, total)
    assert alone == pytest.approx(num_marked / total, abs=0.02)  # else it has no mark, and the sum is 0


def test_conformal_p_values_and_false_discovery_by_hand():
    p = conformal_p_values(torch.tensor([0.0, 2.0, 9.0]), torch.tensor([1.0, 2.0, 3.0]))
    assert p.tolist() == [0.25, 0.75, 1.0]
    values = torch.tensor([0.04, 0.001, 0.9, 0.021, 0.012])
    assert false_discovery(values, 0.05).tolist() == [True, True, False, True, True]
    assert false_discovery(values, 0.03).tolist() == [False, True, False, False, True]
    assert not bool(false_discovery(values + 0.2, 0.05).any())
    generator = torch.Generator().manual_seed(0)
    expected = stats.false_discovery_control
    for _ in range(20):
        p = torch.rand(30, generator=generator, dtype=torch.float64) ** 3
        assert false_discovery(p, 0.1).tolist() == (expected(p.numpy()) <= 0.1).tolist()


def test_interval_of_the_excess_covers():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(400):
        calibration = torch.rand(199, generator=generator).sort().values
        samples = torch.rand(300, generator=generator)
        samples[torch.rand(300, generator=generator) < 0.1] = -1.0
        _, (low, high) = _excess(int((samples < calibration[9]).sum()), 300, 10, 199)
        covered += low <= 0.1 <= high
    assert 0.92 <= covered / 400 <= 0.99


def test_equal_images_and_no_spread():
    train, held_out = torch.zeros(4, 2), torch.zeros(90, 2)
    result = excess_copies(torch.zeros(5, 2), train, held_out, draws=99)
    assert result.sample_p.tolist() == [1.0] * 5
    assert result.p_value == 1
    assert bool(result.score.isfinite().all())


def test_ties_favor_neither_side():
    """Every image twice, once trained on and once held out: a copy says nothing about labels."""
    generator = torch.Generator().manual_seed(0)
    both = torch.randn(200, 5, generator=generator)
    scores = CopyReference(both, both).score(both)
    assert 0.35 < float((scores.place < 200).double().mean()) < 0.65


def test_errors_name_the_culprit(images):
    train, held_out, samples = images[:100], images[100:200], images[200:230]
    bad = samples.clone()
    bad[3, 0, 0, 0] = torch.nan
    for match, call in {
        "samples: row 3": lambda: excess_copies(bad, train, held_out),
        r"held_out \(a\) has rows of shape": lambda: excess_copies(
            {"a": samples}, {"a": train}, {"a": held_out[:, :, :4]}
        ),
        "samples has rows of shape": lambda: excess_copies(samples[:, :2], train, held_out),
        "at least 15 held-out images": lambda: excess_copies(samples, train, held_out[:14]),
        "neighbors is 0": lambda: excess_copies(samples, train, held_out, neighbors=0),
        "no p-value is below 0.091": lambda: excess_copies(samples, train, held_out[:15]),
        "fdr is 1": lambda: excess_copies(samples, train, held_out, fdr=1.0),
        "train has the spaces": lambda: excess_copies(samples, {"a": train}, held_out),
        "samples have the spaces": lambda: excess_copies({"a": samples}, train, held_out),
        "different numbers of images": lambda: excess_copies(
            spaces(samples) | {"colors": samples[:4].mean((2, 3))}, spaces(train), spaces(held_out)
        ),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
