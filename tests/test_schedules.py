import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.schedules import (
    CollapseTemperature,
    ConstantTemperature,
    DimTemperature,
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
