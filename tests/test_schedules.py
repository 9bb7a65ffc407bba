import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.schedules import (
    ClassNeighbors,
    CollapseTemperature,
    ConstantTemperature,
    DensityNeighbors,
    DimTemperature,
    EffectiveNeighbors,
    RootDimTemperature,
    log_uniform,
    shell_touch,
)


def test_log_uniform_has_equal_ratios_and_exact_ends():
    levels = log_uniform(0.01, 50, 1000)
    assert levels.dtype == torch.float32
    assert levels[0] == torch.tensor(0.01)
    assert levels[-1] == 50
    ratios = levels[1:].double() / levels[:-1].double()
    assert torch.allclose(ratios, torch.full_like(ratios, 5000 ** (1 / 999)), rtol=1e-6)


@pytest.mark.parametrize(("exact", "count"), [(False, 116), (True, 112)])
def test_shell_touch_has_the_number_of_levels_of_the_paper(exact, count):
    levels = shell_touch(0.01, 50, 3072, exact=exact)
    assert len(levels) == count
    assert levels[-1] <= 50


def test_exact_shells_touch():
    levels, root = shell_touch(0.01, 50, 3072, exact=True).double(), math.sqrt(3072)
    outer = levels[:-1] * (root + 3 / math.sqrt(2))
    inner = levels[1:] * (root - 3 / math.sqrt(2))
    assert torch.allclose(outer, inner, rtol=1e-6)


def test_shell_touch_keeps_a_level_at_sigma_max():
    levels = shell_touch(0.01, 50, 3072)
    again = shell_touch(0.01, float(0.01 * (1 + 3 * math.sqrt(2) / math.sqrt(3072)) ** 7), 3072)
    assert len(again) == 8
    assert torch.equal(again, levels[:8])


@pytest.mark.parametrize(
    "call",
    [
        lambda: log_uniform(0, 1, 10),
        lambda: log_uniform(-0.1, 1, 10),
        lambda: log_uniform(2, 1, 10),
        lambda: log_uniform(1, 1, 10),
        lambda: log_uniform(0.1, math.inf, 10),
        lambda: log_uniform(math.nan, 1, 10),
        lambda: log_uniform(0.1, 1, 1),
        lambda: shell_touch(0, 1, 100),
        lambda: shell_touch(0.1, 1, 0),
        lambda: shell_touch(0.1, 1, 4, exact=True),
        lambda: ConstantTemperature(0),
        lambda: CollapseTemperature(-1),
        lambda: RootDimTemperature()(1.0),
    ],
)
def test_bad_values_are_named(call):
    with pytest.raises(UserError, match=r"sigma|levels|dim|temperature"):
        call()


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (ConstantTemperature(3.0), lambda sigma: 3.0),
        (CollapseTemperature(5.0), lambda sigma: max(5 / sigma, 1)),
        (RootDimTemperature(3072), lambda sigma: math.sqrt(3072)),
        (DimTemperature(3072), lambda sigma: 3072.0),
        (DimTemperature().bind(12), lambda sigma: 12.0),
        (CollapseTemperature(5.0).bind(12), lambda sigma: max(5 / sigma, 1)),
    ],
)
def test_temperatures_take_numbers_and_tensors(temperature, expected):
    sigmas = [0.01, 1.0, 5.0, 50.0]
    assert [temperature(sigma) for sigma in sigmas] == pytest.approx([expected(sigma) for sigma in sigmas])
    tensor = temperature(torch.tensor(sigmas).view(2, 2))
    assert tensor.shape == (2, 2)
    assert tensor.flatten().tolist() == pytest.approx([expected(sigma) for sigma in sigmas])


def test_effective_neighbors_fade_and_functions():
    sigma = torch.tensor([0.0, 1.0, 2.0, 200.0])
    assert EffectiveNeighbors(3.0).number(sigma).tolist() == [3.0] * 4
    assert EffectiveNeighbors(3.0, fade=2.0).number(sigma).tolist() == pytest.approx([3, 2.6, 2, 1], abs=3e-4)
    assert EffectiveNeighbors(lambda s: 1 + s).number(sigma).tolist() == [1, 2, 3, 201]
    own = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert EffectiveNeighbors(own, fade=2.0).number(sigma).tolist() == pytest.approx([1, 1.8, 2, 1], abs=1e-3)


def test_density_sets_n_by_the_distance_to_the_last_neighbor():
    distances = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 4.0], [0.0, 1.0, 8.0], [0.0, 0.0, 0.0], [0.0, 9.0, 9.0]])
    labels = torch.zeros(5, dtype=torch.int64)
    assert DensityNeighbors(1.5).of_images(distances, labels).tolist() == pytest.approx([2, 1.5, 1.25, 3, 11 / 9])
    apart = DensityNeighbors(1.5, power=1.0).of_images(distances, labels)
    assert apart.tolist() == pytest.approx([1.25, 1.5, 2, 1, 1 + 0.5 * 9 / 4])
    assert DensityNeighbors(1.5, rank=1).of_images(distances, labels).tolist() == pytest.approx(
        [1.5, 1.5, 1.5, 3, 1 + 0.5 / 9]
    )


def test_classes_have_their_own_n():
    labels = torch.tensor([0, 3, 3, 1])
    rule = ClassNeighbors(1.1, by_class={3: 2.0})
    assert rule.of_images(torch.zeros(4, 5), labels).tolist() == pytest.approx([1.1, 2, 2, 1.1])
    assert EffectiveNeighbors(2.0).of_images(torch.zeros(4, 5), labels) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EffectiveNeighbors(0.9), "n is 0.9"),
        (lambda: EffectiveNeighbors(float("nan")), "n is nan"),
        (lambda: EffectiveNeighbors(float("inf")), "n is inf"),
        (lambda: EffectiveNeighbors(2.0, fade=0.0), "fade is 0"),
        (lambda: EffectiveNeighbors(lambda s: s, fade=1.0), "drop one of the two"),
        (lambda: DensityNeighbors(2.0, rank=0), "rank is 0"),
        (lambda: DensityNeighbors(2.0, rank=5).of_images(torch.ones(4, 3), torch.zeros(4)), "rank is 5"),
        (lambda: DensityNeighbors(2.0).of_images(torch.zeros(4, 3), torch.zeros(4)), "half of the images are copies"),
        (lambda: ClassNeighbors(2.0, by_class={1: 0.5}), "class 1 n = 0.5"),
        (lambda: ClassNeighbors(2.0, by_class={7: 3.0}).of_images(torch.ones(2, 3), torch.zeros(2)), "class 7"),
    ],
)
def test_bad_numbers_of_neighbors_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
