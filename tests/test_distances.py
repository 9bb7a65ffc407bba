"""Nearest neighbors and the screening bound against float64 brute force."""

import pytest
import torch
from torch import Tensor

from smoothscore.distances import Centers, nearest, rows
from smoothscore.errors import UserError


def exact_distance_sq(x: Tensor, data: Tensor) -> Tensor:
    """Float64 direct differences, [B, M]; uint8 goes through the float32 quotient as everywhere."""
    x, data = (t.float() / 255 if t.dtype == torch.uint8 else t for t in (x, data))
    point, centers = x.double().flatten(1), data.double().flatten(1)
    return torch.stack([(row - centers).square().sum(1) for row in point])


def check_exact(x: Tensor, data: Tensor, k: int, **options: int) -> None:
    truth, index = exact_distance_sq(x, data).sort(dim=1, stable=True)
    found = nearest(x, data, k, **options)
    assert found.distance.dtype == torch.float32
    assert found.index.dtype == torch.int64
    assert torch.equal(found.index, index[:, :k])
    torch.testing.assert_close(found.distance.double(), truth[:, :k].sqrt(), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("sigma", [0.0, 0.002, 0.1, 3.0, 50.0])
@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_equals_brute_force_on_images(emoji: Tensor, sigma: float, k: int, dtype: torch.dtype) -> None:
    data = emoji[::3] if dtype == torch.uint8 else emoji[::3].float() / 255
    clean = data[::60].float() / (255 if dtype == torch.uint8 else 1)
    check_exact(clean + sigma * torch.randn(clean.shape, generator=torch.manual_seed(0)), data, k)


def test_queries_may_be_uint8_and_find_themselves_at_zero(emoji: Tensor) -> None:
    found = nearest(emoji[:50], emoji)
    assert torch.equal(found.distance, torch.zeros(50, 1))


def test_ties_go_to_the_lower_index(emoji: Tensor) -> None:
    data = torch.cat([emoji[200:300], emoji[:40], emoji[:40], emoji[:40]])
    x = emoji[:40].float() / 255 + 0.01
    found = nearest(x, data, 3)
    first = torch.arange(40)[:, None] + 100
    assert torch.equal(found.index, torch.cat([first, first + 40, first + 80], dim=1))


def test_more_ties_than_candidates_are_widened(emoji: Tensor) -> None:
    """All centers equal: the bound cannot tell any apart, and every one of them has to be settled."""
    data = emoji[:1].expand(300, -1, -1, -1)
    found = nearest(emoji[:3], data, 4)
    assert torch.equal(found.index, torch.arange(4).expand(3, 4))


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 32, 32), (3, 40, 40)])
def test_centers_nearer_to_each_other_than_float32_sees(shape: tuple[int, ...]) -> None:
    """Centers 1e-4 apart and far from the origin: a plain float32 product orders them at random."""
    generator = torch.manual_seed(1)
    data = 20 + 1e-4 * torch.randn(400, *shape, generator=generator, dtype=torch.float64)
    x = 20 + 1e-4 * torch.randn(11, *shape, generator=generator, dtype=torch.float64)
    check_exact(x, data, 3)


def test_small_budget_changes_nothing(emoji: Tensor) -> None:
    x = emoji[:30].float() / 255 + 0.3
    found, lean = nearest(x, emoji, 7), nearest(x, emoji, 7, memory_budget=2**18)
    assert torch.equal(found.index, lean.index)
    assert torch.equal(found.distance, lean.distance)


def test_half_precision_settings_of_a_trainer_change_nothing(emoji: Tensor) -> None:
    x = emoji[:30].float() / 255 + 0.3
    expected = nearest(x, emoji, 7)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = nearest(x, emoji, 7)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(found.distance, expected.distance)


def awkward(kind: str, emoji: Tensor) -> tuple[Tensor, Tensor]:
    """Sets on which rounding errors of a product add up instead of averaging out."""
    if kind == "emoji":
        return emoji[::100].float() / 255 + 0.01, emoji
    if kind == "noise":
        return 50 * torch.randn(10, 3, 32, 32, generator=torch.manual_seed(0)), emoji[::3]
    if kind == "spike":  # one value sets the step in which all are rounded
        return torch.where(torch.arange(3072).view(3, 32, 32) == 7, 1e3, 0.4).repeat(3, 1, 1, 1), emoji.float() / 255
    if kind == "constant":
        levels = torch.linspace(0.1, 0.9, 40)[:, None, None, None]
        return levels[::3].expand(-1, 3, 32, 32) + 0.01, levels.expand(-1, 3, 32, 32)
    offset = 1000.0 + torch.rand(60, 3, 32, 32, generator=torch.manual_seed(2))
    return offset[:10] + 0.1, offset


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize("kind", ["emoji", "noise", "spike", "constant", "offset"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_screening_error_stays_within_its_bound(
    emoji: Tensor, kind: str, dtype: torch.dtype, bytewise: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "multiplies_bytes", lambda device: bytewise)
    monkeypatch.setattr(rows, "_LEAST_BYTES", 0)
    x, data = awkward(kind, emoji)
    centers = Centers(data, keep=2**24)
    assert (centers.bytes is not None) == (bytewise and kind in ("emoji", "noise", "spike"))
    query = centers.query(x, dtype)
    value = centers.screen(query)
    assert value.dtype == dtype
    error = (query.offset[:, None] + value - exact_distance_sq(x, data)).abs().amax(1)
    assert (error <= query.slack).all()
    # a bound that is never near would make contenders of everything
    largest = (query.offset + centers.norm_sq.max()) * torch.finfo(dtype).eps
    assert dtype == torch.float64 or kind == "offset" or (query.slack <= 1000 * largest).all()


@pytest.mark.parametrize("bytewise", [True, False])
@pytest.mark.parametrize("power", [1, 30])
def test_weighted_sums_stay_within_their_bound(
    emoji: Tensor, monkeypatch: pytest.MonkeyPatch, bytewise: bool, power: int
) -> None:
    monkeypatch.setattr(rows, "multiplies_bytes", lambda device: bytewise)
    monkeypatch.setattr(rows, "_LEAST_BYTES", 1)
    centered = rows.CenteredRows(emoji, keep=2**30)
    weights = torch.rand(6, len(emoji), generator=torch.manual_seed(0)) ** power
    weights /= weights.sum(1, keepdim=True)
    difference = (emoji.float() / 255).double().flatten(1) - centered.middle.double()
    truth, far = weights.double() @ difference, weights.double() @ difference.norm(dim=1)
    before = torch.full((6,), torch.inf, dtype=torch.float64)
    ways = centered.sums(torch.device("cpu"))
    assert all((way.digits > 0) == bytewise for way in ways)
    for way in ways:
        bound = centered.sum_error(way, weights, None, far)
        assert bool(((centered.weighted_sum(weights, way=way) - truth).norm(dim=1) <= bound).all())
        assert bool((bound < before).all())
        before = bound


def test_settled_distances_are_float64(emoji: Tensor) -> None:
    centers = Centers(emoji)
    x = emoji[:4].float() / 255 + 1e-6
    row, column = torch.arange(4), torch.arange(4)
    got = centers.distance_sq(centers.query(x), row, column)
    torch.testing.assert_close(got, exact_distance_sq(x, emoji).diagonal(), rtol=1e-12, atol=0)


def test_bad_input_names_the_culprit(emoji: Tensor) -> None:
    data = emoji[:20].float() / 255
    broken = data.clone()
    broken[13, 0, 4, 4] = float("nan")
    with pytest.raises(UserError, match="Row 13 of data"):
        nearest(data, broken)
    broken[13, 0, 4, 4] = float("inf")
    with pytest.raises(UserError, match="Row 13 of x"):
        nearest(broken, data)
    with pytest.raises(UserError, match=r"\[2, 3, 32, 31\]"):
        nearest(data[:2, :, :, 1:], data)
    for k in (0, 21):
        with pytest.raises(UserError, match=f"k = {k}"):
            nearest(data, data, k)
    with pytest.raises(UserError, match="at least one row"):
        nearest(data, data[:0])


def test_no_queries_give_no_neighbors(emoji: Tensor) -> None:
    found = nearest(emoji[:0], emoji, 2)
    assert found.distance.shape == found.index.shape == (0, 2)
