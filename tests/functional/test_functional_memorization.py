"""Memorization against float64 brute force on real images, with planted copies, duplicates and ties."""

import pytest
import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.functional import (
    difference_interval,
    fraction_interval,
    jackknife_interval,
    memorization_ratio,
    memorization_report,
)
from smoothscore.functional.rows import unique_rows


def brute_force(samples: Tensor, train: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ratio, distance and row of the nearest, in float64, from all direct differences, sorted."""
    rows = [part.double().flatten(1) / (255 if part.dtype == torch.uint8 else 1) for part in (samples, train)]
    distance = torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")
    two, index = distance.sort(dim=1, stable=True)
    ratio = torch.where(two[:, 1] == 0, 1.0, two[:, 0] / two[:, 1])
    return ratio, two[:, 0], index[:, 0]


@pytest.fixture(scope="module")
def split(emoji: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct images, 1,000 to train on and 400 held out."""
    distinct = emoji[unique_rows(emoji)]
    order = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(0))
    return distinct[order[:1000]], distinct[order[1000:1400]]


def noisy(images: Tensor, sigma: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return images.float() / 255 + sigma * torch.randn(images.shape, generator=generator)


def test_unique_rows_of_the_embedded_images(emoji):
    rows = unique_rows(emoji)
    assert len(rows) == 1407
    seen = {}
    for row, image in enumerate(emoji):
        seen.setdefault(image.numpy().tobytes(), row)
    assert rows.tolist() == sorted(seen.values())
    assert torch.equal(unique_rows(emoji.float()), rows)


@pytest.mark.parametrize("sigma", [0.0, 1e-4, 0.05, 0.5, 20.0])
def test_ratio_equals_float64(split, sigma):
    train, held_out = split
    samples = noisy(torch.cat([train[:40], held_out[:40]]), sigma)
    expected, _, _ = brute_force(samples, train.float() / 255)
    ratio = memorization_ratio(samples, train)
    assert ratio.dtype == torch.float32
    torch.testing.assert_close(ratio.double(), expected, rtol=1e-6, atol=1e-7)


def test_uint8_and_features(split):
    train, held_out = split[0], split[1][:100]
    torch.testing.assert_close(
        memorization_ratio(held_out, train).double(), brute_force(held_out, train)[0], rtol=1e-6, atol=0
    )
    mixed = memorization_ratio(held_out.float() / 255, train)
    torch.testing.assert_close(mixed, memorization_ratio(held_out, train), rtol=1e-6, atol=0)
    weight = torch.randn(3072, 32, generator=torch.Generator().manual_seed(1)) / 3072**0.5
    features = [(part.float() / 255).flatten(1) @ weight for part in (held_out, train)]
    expected, distance, nearest = brute_force(*features)
    report = memorization_report(*features)
    torch.testing.assert_close(report.ratio.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(report.distance.double(), distance, rtol=1e-6, atol=0)
    assert torch.equal(report.nearest, nearest)


def test_a_far_offset_does_not_blur_the_ratio(split):
    """Distances from a matrix product would lose every digit here."""
    train, held_out = (part.double() / 255 for part in split)
    samples = train[:20] + 1e-3 * (held_out[:20] - train[:20])
    expected, _, _ = brute_force(samples + 1000, train + 1000)
    torch.testing.assert_close(memorization_ratio(samples + 1000, train + 1000).double(), expected, rtol=1e-6, atol=0)


def test_exact_ties_and_exact_thresholds():
    train = torch.tensor([[0.0, 0.0], [5.0, 0.0], [100.0, 0.0]])
    samples = torch.tensor([[2.0, 0.0], [2.5, 0.0], [0.0, 0.0], [1.25, 0.0]])
    ratio = memorization_ratio(samples, train)
    assert ratio.tolist() == pytest.approx([2 / 3, 1.0, 0.0, 1 / 3], rel=1e-7)
    report = memorization_report(samples, train)
    assert report.count == 2  # 2/3 itself is not below 2/3
    assert report.counts == (1, 2, 2)
    assert report.nearest.tolist()[1] == 0  # a tie goes to the lower row
    assert report.count == int((ratio < 2 / 3).sum())


def test_copied_duplicates_are_hidden_from_the_ratio_and_caught_by_the_report(emoji):
    group = {}
    for row, image in enumerate(emoji):
        group.setdefault(image.numpy().tobytes(), []).append(row)
    first = [rows[0] for rows in group.values() if len(rows) > 1]
    copies = emoji[first]
    assert bool((memorization_ratio(copies, emoji) == 1).all())
    report = memorization_report(copies, emoji)
    assert report.duplicates == 5
    assert report.count == len(first)
    assert report.nearest.tolist() == first
    assert report.minimum == 0
    # Rows are those of the images as given, also behind rows that were left out.
    doubled = torch.cat([emoji[:3], emoji])
    assert memorization_report(copies, doubled).nearest.tolist() == [row if row < 3 else row + 3 for row in first]
    # A jittered copy of a duplicate too: its two nearest are the two equal rows.
    jittered = memorization_report(noisy(copies, 0.01), emoji)
    assert jittered.count == len(first)
    assert bool((memorization_ratio(noisy(copies, 0.01), emoji) > 0.999).all())


def test_copycat_scores_all_and_held_out_images_the_null(split):
    train, held_out = split[0], split[1][:150]
    report = memorization_report(noisy(train[:200], 0.01), train, control=held_out)
    assert report.count == 200
    assert report.fraction == 1
    assert report.interval == (1.0, 1.0)
    assert report.nearest.tolist() == list(range(200))
    assert report.control_count is not None
    assert report.control_count < 0.1 * len(held_out)
    expected, distance, nearest = brute_force(held_out, train)
    assert report.control_count == int((expected < 2 / 3).sum())
    assert report.control.mean == pytest.approx(float(expected.mean()), rel=1e-6)
    assert report.control.minimum == pytest.approx(float(expected.min()), rel=1e-6)
    torch.testing.assert_close(report.control.distance.double(), distance, rtol=1e-6, atol=0)
    assert torch.equal(report.control.nearest, nearest)
    assert memorization_report(held_out, train).control_count is None


@pytest.mark.parametrize("planted", [20, 100, 300])
def test_interval_covers_a_planted_fraction(split, planted):
    train, held_out = split
    clean = held_out[memorization_ratio(held_out, train) >= 2 / 3]
    samples = torch.cat([noisy(train[:planted], 0.01), clean[: 380 - planted].float() / 255])
    report = memorization_report(samples, train, seed=1)
    assert report.count == planted
    assert report.fraction == pytest.approx(planted / len(samples))
    low, high = report.interval
    assert low < planted / len(samples) < high
    again, other = (memorization_report(samples, train, seed=seed, bootstrap=20).interval for seed in (1, 2))
    assert again == memorization_report(samples, train, seed=1, bootstrap=20).interval
    assert again != other


def test_interval_equals_the_plain_bootstrap():
    """Resampling 200 yes-or-no values, written out."""
    flags = torch.zeros(200)
    flags[:30] = 1
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(200, (20_000, 200), generator=generator)
    plain = flags[drawn].mean(1).quantile(torch.tensor([0.025, 0.975]))
    low, high = fraction_interval(30, 200, bootstrap=20_000)
    assert low == pytest.approx(float(plain[0]), abs=0.0051)  # one sample of 200
    assert high == pytest.approx(float(plain[1]), abs=0.0051)
    narrow = fraction_interval(30, 200, bootstrap=20_000, confidence=0.5)
    assert low < narrow[0] < 0.15 < narrow[1] < high


def test_interval_has_its_coverage():
    """Nominal 95 % over fresh draws of a true fraction of 0.2."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.binomial(torch.full((400,), 300.0), torch.full((400,), 0.2), generator=generator)
    covered = sum(
        low <= 0.2 <= high
        for low, high in (fraction_interval(int(count), 300, seed=i) for i, count in enumerate(counts))
    )
    assert 0.91 < covered / 400 < 0.98


def test_errors_name_the_culprit(split):
    train, held_out = split
    bad = held_out.float()
    bad[3, 0, 0, 0] = torch.nan
    wrong = train.float()
    wrong[11] = torch.inf
    for match, call in {
        "samples: row 3": lambda: memorization_ratio(bad, train),
        "train: row 11": lambda: memorization_ratio(held_out, wrong),
        "samples: 0 row": lambda: memorization_report(held_out[:0], train),
        "train: 1 row": lambda: memorization_ratio(held_out, train[:1]),
        "train: all 4 images are equal": lambda: memorization_report(held_out, train[[5, 5, 5, 5]]),
        "samples has rows of shape": lambda: memorization_ratio(held_out[:, :, ::2, ::2], train),
        "control: row 3": lambda: memorization_report(held_out, train, control=bad),
        "dtype torch.int64": lambda: memorization_ratio(held_out.long(), train),
        "threshold: 2": lambda: memorization_report(held_out, train, threshold=2),
        "bootstrap: 0": lambda: memorization_report(held_out, train, bootstrap=0),
    }.items():
        with pytest.raises(UserError, match=match):
            call()


def test_flips_are_found_and_equal_brute_force(split):
    train, held_out = split[0][:300], split[1]
    generator = torch.Generator().manual_seed(0)
    noise = 0.01 * torch.randn(60, 3, 32, 32, generator=generator)
    samples = torch.cat([train[:60].flip(-1).float() / 255 + noise, held_out[:60].float() / 255])
    report = memorization_report(samples, train, flips=True)
    # Of every image the nearer orientation, of images that mirror one another the first.
    kept = unique_rows(train, flips=True)
    both = [brute_force_distances(samples, images) for images in (train[kept], train[kept].flip(-1))]
    two, index = torch.minimum(*both).sort(dim=1, stable=True)
    torch.testing.assert_close(report.ratio.double(), two[:, 0] / two[:, 1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(report.distance.double(), two[:, 0], rtol=1e-6, atol=0)
    assert torch.equal(report.nearest, kept[index[:, 0]])
    assert int((report.ratio[:60] < 2 / 3).sum()) >= 58  # a few of these images nearly mirror one another
    assert memorization_report(samples[:60], train).count < 40  # without flips, only symmetric images are seen
    assert memorization_report(samples.flip(-1), train, flips=True).count == report.count


def brute_force_distances(samples: Tensor, train: Tensor) -> Tensor:
    rows = [part.double().flatten(1) / (255 if part.dtype == torch.uint8 else 1) for part in (samples, train)]
    return torch.cdist(*rows, compute_mode="donot_use_mm_for_euclid_dist")


def test_images_that_mirror_one_another_are_duplicates(split):
    train = split[0][:100]
    doubled = torch.cat([train, train[10:40].flip(-1)])
    symmetric = int((train[10:40] == train[10:40].flip(-1)).flatten(1).all(1).sum())
    mirrored = unique_rows(doubled, flips=True)
    assert mirrored.tolist() == unique_rows(train, flips=True).tolist()
    assert len(unique_rows(doubled)) == 130 - symmetric
    copies = noisy(train[10:40], 0.01)
    report = memorization_report(copies, doubled, flips=True)
    assert report.count == 30
    assert report.nearest.tolist() == memorization_report(copies, train, flips=True).nearest.tolist()


def test_curve_holds_every_threshold(split):
    train, held_out = split
    samples = torch.cat([noisy(train[:60], 0.02), held_out[:90].float() / 255])
    report = memorization_report(samples, train)
    curve = report.curve()
    assert len(curve.threshold) == 100
    for threshold, fraction, low, high in zip(*(part.tolist() for part in curve), strict=True):
        count = int((report.ratio < torch.tensor(threshold)).sum())
        assert fraction == pytest.approx(count / 150)
        assert (low, high) == fraction_interval(count, 150)
    chosen = report.curve(torch.tensor([1 / 3, 1 / 2, 2 / 3]))
    assert (150 * chosen.fraction).round().int().tolist() == list(report.counts)
    assert (float(chosen.low[2]), float(chosen.high[2])) == report.interval
    with pytest.raises(UserError, match="threshold: 0"):
        report.curve(torch.tensor([0.0]))


def test_difference_from_the_control(split):
    train, held_out = split
    samples = torch.cat([noisy(train[:40], 0.01), held_out[:160].float() / 255])
    report = memorization_report(samples, train, control=held_out[160:])
    assert report.difference == pytest.approx(report.fraction - report.control.fraction)
    low, high = report.difference_interval
    assert 0 < low < report.difference < high
    null = memorization_report(held_out[:160], train, control=held_out[160:])
    assert null.difference_interval[0] < 0 < null.difference_interval[1]
    assert memorization_report(samples, train).difference_interval is None


def test_difference_interval_equals_the_plain_bootstrap():
    generator = torch.Generator().manual_seed(0)
    flags = [torch.arange(total) < count for count, total in ((30, 200), (5, 100))]
    drawn = [
        part[torch.randint(len(part), (20_000, len(part)), generator=generator)].double().mean(1) for part in flags
    ]
    plain = (drawn[0] - drawn[1]).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert difference_interval((30, 200), (5, 100), bootstrap=20_000) == pytest.approx(plain, abs=0.0051)
    assert difference_interval((0, 50), (0, 50)) == (0, 0)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    without = [(values.sum() - value) / 199 for value in values]
    low, high = jackknife_interval(float(values.mean()), [float(value) for value in without])
    assert (high - low) / 2 == pytest.approx(1.96 * float(values.std()) / 200**0.5, rel=1e-9)
    assert (high + low) / 2 == pytest.approx(float(values.mean()))
    with pytest.raises(UserError, match="at least 2"):
        jackknife_interval(0, [1.0])
