"""Every detector against a plain float64 form of its rule and its test, on vectors with planted copies."""

import pytest
import torch
from torch import Tensor

from smoothscore.experiments.detection import C_T, LABELS, NEW, Detectors, spaces_of, take
from smoothscore.functional import excess_copies
from smoothscore.neighbors import Pixels

stats = pytest.importorskip("scipy.stats")


def in_spaces(rows: Tensor) -> dict[str, Tensor]:
    return {"pixels": rows, "some": rows[:, :4] + rows[:, 4:]}


@pytest.fixture(scope="module")
def sets() -> tuple[Tensor, Tensor, Tensor]:
    """150 training rows, 90 held-out ones, 60 samples of which the first 12 are near copies."""
    generator = torch.Generator().manual_seed(0)
    train, held_out, samples = (torch.randn(count, 8, generator=generator) for count in (150, 90, 60))
    samples[:12] = train[:12] + 0.05 * torch.randn(12, 8, generator=generator)
    return train, held_out, samples


def apart(one: Tensor, other: Tensor) -> Tensor:
    return (one.double()[:, None] - other.double()).norm(dim=2)


def plainly_caught(rows: Tensor, train: Tensor) -> dict[str, Tensor]:
    """By each rule for single images, one image at a time."""
    caught: dict[str, list[bool]] = {}

    def note(name: str, flag: bool) -> None:
        caught.setdefault(name, []).append(flag)

    for number in range(len(rows)):
        for space, known in in_spaces(train).items():
            row = in_spaces(rows)[space][number : number + 1]
            distance = apart(row, known)[0].sort().values
            for label, threshold in (("1/3", 1 / 3), ("2/3", 2 / 3)):
                note(f"d1/d2 < {label} ({space})", bool(distance[0] / distance[1] < threshold))
            if space == "pixels":
                note("calibrated distance", bool(distance[0] < 0.5 * distance[:50].mean()))
            else:
                match = apart(row, known)[0].argmin()
                own = apart(known[match : match + 1], known)[0].sort().values[1]
                note("AuthPct", bool(distance[0] <= own))
    return {name: torch.tensor(flags) for name, flags in caught.items()}


def test_rules_equal_brute_force(sets):
    train, held_out, samples = sets
    look = Detectors(in_spaces(train), in_spaces(held_out), seed=5).look(in_spaces(samples))
    expected = plainly_caught(samples, train)
    expected[NEW] = excess_copies(*map(in_spaces, (samples, train, held_out)), seed=5, draws=1).sample_p <= 0.05
    assert set(look.caught) == set(expected)
    for name, flags in expected.items():
        assert torch.equal(look.caught[name], flags), name
        assert flags.any()
    two = apart(samples, train).sort(1).values
    torch.testing.assert_close(look.ratio.double(), two[:, 0] / two[:, 1], rtol=1e-5, atol=1e-6)


def test_verdicts_equal_scipy_and_the_function(sets):
    train, held_out, samples = sets
    detectors = Detectors(in_spaces(train), in_spaces(held_out), seed=5)
    verdicts = dict(detectors.judge([(detectors.look(in_spaces(samples)), slice(None))]))
    own, control = plainly_caught(samples, train), plainly_caught(held_out, train)
    for name, flags in own.items():
        table = [[int(part.sum()), int((~part).sum())] for part in (flags, control[name])]
        assert verdicts[name] == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue), name
    distances = [apart(in_spaces(rows)["some"], in_spaces(train)["some"]).amin(1) for rows in (samples, held_out)]
    expected = stats.mannwhitneyu(*distances, alternative="less", use_continuity=False, method="asymptotic").pvalue
    assert verdicts[C_T] == pytest.approx(expected, rel=1e-6)
    report = excess_copies(*map(in_spaces, (samples, train, held_out)), seed=5, draws=999)
    assert (verdicts[NEW], verdicts[LABELS]) == (report.p_value, report.label_p_value)
    assert verdicts[NEW] < 0.01


def test_parts_are_judged_as_one_set(sets):
    train, held_out, samples = sets
    detectors = Detectors(in_spaces(train), in_spaces(held_out), seed=5)
    whole = detectors.judge([(detectors.look(in_spaces(samples)), slice(None))])
    looks = [detectors.look(in_spaces(samples[part])) for part in (slice(40), slice(20, None))]
    assert detectors.judge([(looks[0], slice(30)), (looks[1], slice(10, None))]) == whole


def test_spaces():
    images = torch.rand(5, 3, 8, 8)
    assert list(spaces_of(images, Pixels())) == ["pixels"]

    class Mean(torch.nn.Module):
        def forward(self, batch: Tensor) -> Tensor:
            return batch.mean((2, 3))

    both = take(spaces_of(images, Mean()), torch.tensor([3, 1]))
    assert torch.equal(both["pixels"], images[[3, 1]])
    torch.testing.assert_close(both["Mean"], images[[3, 1]].mean((2, 3)))
