"""The training set's own score against float64 over all centers, on real images and at the limits."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from smoothscore.distances import Centers, Query, rows
from smoothscore.distances.signed import SignedBytes
from smoothscore.errors import UserError
from smoothscore.schedules import CollapseTemperature, DimTemperature, log_uniform, shell_touch
from smoothscore.score import solver
from smoothscore.score.empirical import Conditioned, EmpiricalScore, Tempered, Unconditioned
from smoothscore.score.smoothed import smoothed_target
from smoothscore.score.solver import Solver
from tests.oracle import empirical as oracle
from tests.oracle.empirical import EmpiricalOracle

SIGMAS = [0.002, 0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 50.0]
PLACES = ["near", "between", "far"]


@pytest.fixture(scope="module")
def emoji(emoji: Tensor) -> Tensor:
    """Every other image, 706 of them: enough for all ways of settling."""
    return emoji[::2].contiguous()


@pytest.fixture(params=["float32", "bytes"], autouse=True)
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test also runs as on a processor that multiplies bytes fast; on others it is slow, and the same."""
    monkeypatch.setattr(rows, "multiplies_bytes", lambda device: request.param == "bytes")
    monkeypatch.setattr(rows, "_LEAST_BYTES", 0)
    return request.param


def points(emoji: Tensor, place: str, sigma: float) -> Tensor:
    """Four noised points: near an image, between two, or far from all."""
    clean = emoji.float() / 255
    noise = torch.randn(4, *emoji.shape[1:], generator=torch.manual_seed(0))
    if place == "near":
        return clean[[3, 200, 400, 650]] + sigma * noise
    if place == "between":
        return (clean[[3, 200, 400, 650]] + clean[[14, 211, 412, 661]]) / 2 + sigma * noise
    return clean.mean(0) - 1 + max(sigma, 1) * noise


def relative_error(found: Tensor, expected: Tensor) -> Tensor:
    difference = (found.double() - expected.double()).flatten(1)
    return difference.norm(dim=1) / expected.double().flatten(1).norm(dim=1)


def check(score: EmpiricalScore, truth: EmpiricalOracle, x: Tensor, sigma: float | Tensor | None = None) -> None:
    """1e-3 as promised; what is really reached is nearer 1e-6, but for weights summed in two digits."""
    arguments = (x,) if sigma is None else (x, sigma)
    bound = 5e-4 if score.centers.bytes is not None else 1e-4
    for found, expected in ((score(*arguments), truth.score), (score.denoised(*arguments), truth.denoised)):
        assert found.shape == x.shape
        assert found.dtype == x.dtype
        error = relative_error(found, expected)
        assert (error < bound).all(), error
        bound = 1e-4
    weights = score.weights(*arguments)
    assert (weights.double() - truth.weights).abs().max() < 1e-4
    assert torch.allclose(weights.sum(1), torch.ones(len(x)), atol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("place", PLACES)
def test_conditioned(emoji: Tensor, sigma: float, place: str) -> None:
    x = points(emoji, place, sigma)
    check(Conditioned(emoji), oracle.conditioned(x, emoji, sigma), x, sigma)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("place", PLACES)
def test_unconditioned(emoji: Tensor, sigma: float, place: str) -> None:
    x = points(emoji, place, sigma)
    check(Unconditioned(emoji), oracle.tempered(x, emoji), x)


@pytest.mark.parametrize("sigma", [0.002, 0.1, 2.0, 50.0])
@pytest.mark.parametrize("temperature", [10.0, 100.0, 1000.0, math.inf])
@pytest.mark.parametrize("place", PLACES)
def test_tempered(emoji: Tensor, sigma: float, temperature: float, place: str) -> None:
    x = points(emoji, place, sigma)
    check(Tempered(emoji, temperature), oracle.tempered(x, emoji, temperature), x)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("per_center", [False, True])
def test_temperature_as_a_function_of_sigma_star(emoji: Tensor, sigma: float, per_center: bool) -> None:
    x = points(emoji, "near", sigma)
    temperature = CollapseTemperature(5.0)
    truth = oracle.tempered(x, emoji, temperature, per_center)
    check(Tempered(emoji, temperature, per_center=per_center), truth, x)


@pytest.mark.parametrize("sigma", [0.002, 0.3, 50.0])
@pytest.mark.parametrize("levels", [shell_touch(0.01, 50, 3072), log_uniform(0.01, 50, 300), torch.tensor([9.0, 0.2])])
def test_exact_mixture(emoji: Tensor, sigma: float, levels: Tensor) -> None:
    x = points(emoji, "between", sigma)
    check(Unconditioned(emoji, levels), oracle.mixture(x, emoji, levels), x)


def test_a_noise_level_for_every_point(emoji: Tensor) -> None:
    """All ways of settling in one batch."""
    sigma = torch.tensor([0.002, 0.5, 2.0, 50.0])
    x = points(emoji, "near", 0.0) + sigma[:, None, None, None] * torch.randn(
        4, 3, 32, 32, generator=torch.manual_seed(1)
    )
    check(Conditioned(emoji), oracle.conditioned(x, emoji, sigma), x, sigma)


def test_every_way_of_settling_is_taken(emoji: Tensor, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests here would compare less than they seem to."""
    taken: list[str] = []
    parts = [(Solver, name, name) for name in ("_settled", "_within", "_mend", "_settled_further")]
    parts += [(Centers, "weighted_sum", "weighted_sum"), (SignedBytes, "products", "products")]
    for owner, name, label in [*parts, (SignedBytes, "weighted_sum", "bytes")]:
        original = getattr(owner, name)

        def recorded(*arguments: object, label: str = label, original: object = original, **options: object) -> object:
            taken.append(label)
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, recorded)

    def ways_of(call: Callable[[], object]) -> set[str]:
        taken.clear()
        call()
        return set(taken)

    score = Conditioned(emoji)
    near, wide, far = (points(emoji, *place) for place in (("near", 0.01), ("near", 50), ("far", 5)))
    screened, summed = ({"products"}, {"bytes"}) if precision == "bytes" else (set(), set())
    assert ways_of(lambda: score(near, 0.01)) == {"_settled", "weighted_sum"} | screened
    assert ways_of(lambda: score(wide, 50)) == {"_within", "weighted_sum"} | screened | summed
    assert ways_of(lambda: score.denoised(wide, 50)) == {"_within", "weighted_sum"} | screened | summed
    mended = (lambda: Tempered(emoji, 1000.0)(near)) if precision == "bytes" else lambda: score(far, 5)
    assert ways_of(mended) >= {"_within", "_mend"}
    # between two images their pulls cancel, so that others have to be looked at after all
    pair = torch.stack([emoji[0], emoji[-1]]).float() / 255
    between = Conditioned(torch.cat([pair, pair.mean(0, keepdim=True) + 3 * torch.randn(600, *pair.shape[1:])]))
    assert "_settled_further" in ways_of(lambda: between(pair.mean(0, keepdim=True), 0.9))


@pytest.mark.parametrize("tolerance", [1e-12, 1e-5])
@pytest.mark.parametrize("kind", ["conditioned", "power law", "mixture"])
def test_stricter_tolerances_settle_more(
    emoji: Tensor, tolerance: float, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At tolerance 1e-12 all contenders are settled in float64, between that and the default some of them."""
    x, levels = points(emoji, "near", 5.0), shell_touch(0.01, 50, 3072)
    monkeypatch.setattr(solver, "TOLERANCE", tolerance)
    if kind == "conditioned":
        check(Conditioned(emoji), oracle.conditioned(x, emoji, 5.0), x, 5.0)
    elif kind == "power law":
        check(Tempered(emoji, 3.0), oracle.tempered(x, emoji, 3.0), x)
    else:
        check(Unconditioned(emoji, levels), oracle.mixture(x, emoji, levels), x)


@pytest.mark.parametrize("kind", ["conditioned", "power law", "tempered", "mixture"])
@pytest.mark.parametrize("sigma", [0.01, 0.5, 1.0, 2.0, 5.0, 50.0])
@pytest.mark.parametrize("aligned", [False, True])
def test_as_exact_when_screening_is_as_wrong_as_its_bound_allows(
    emoji: Tensor, kind: str, sigma: float, aligned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The promise rests on the bound alone: errors of its full size, at random or all to one side, must not show."""
    x = points(emoji, "near", sigma)
    direction = torch.randn(3072, generator=torch.manual_seed(2))
    sides = (emoji.float().flatten(1) @ direction).sub_(0).sign() if aligned else None
    screen = Centers.screen

    def wrong(self: Centers, query: Query, columns: Tensor | None = None) -> Tensor:
        value = screen(self, query, columns)
        if sides is None:
            sign = torch.randn(value.shape, generator=torch.manual_seed(3)).sign()
        else:
            sign = (sides if columns is None else sides[columns]).expand_as(value)
        return value + 0.95 * (query.slack[:, None] * sign).to(value.dtype)

    monkeypatch.setattr(Centers, "screen", wrong)
    if kind == "conditioned":
        score, truth, arguments = Conditioned(emoji), oracle.conditioned(x, emoji, sigma), (x, sigma)
    elif kind == "power law":
        score, truth, arguments = Unconditioned(emoji), oracle.tempered(x, emoji), (x,)
    elif kind == "tempered":
        score, truth, arguments = Tempered(emoji, 100.0), oracle.tempered(x, emoji, 100.0), (x,)
    else:
        levels = shell_touch(0.01, 50, 3072)
        score, truth, arguments = Unconditioned(emoji, levels), oracle.mixture(x, emoji, levels), (x,)
    error = (score(*arguments).double() - truth.score).flatten(1).norm(dim=1) / truth.score.flatten(1).norm(dim=1)
    assert (error < 1e-3).all(), error
    assert (score.weights(*arguments).double() - truth.weights).abs().max() < 1e-3


def test_score_is_the_gradient_of_the_log_density(emoji: Tensor) -> None:
    """Independent of the oracle's formulas: autograd through the densities of Eq. (3) and of the power law."""
    data = emoji[:40, :, ::8, ::8].double() / 255
    x = (data[:3] + 0.2).requires_grad_()
    levels = log_uniform(0.05, 2, 7).double()
    distance_sq = (x.flatten(1)[:, None] - data.flatten(1)).square().sum(2)
    normal = -48 * levels.log() - distance_sq[..., None] / (2 * levels**2)
    mixture = (normal + 2 * levels.log()).flatten(1).logsumexp(1).sum()
    (expected,) = torch.autograd.grad(mixture, x, retain_graph=True)
    torch.testing.assert_close(Unconditioned(data, levels)(x), expected, rtol=1e-5, atol=1e-6)
    conditioned = (-distance_sq / (2 * 0.3**2)).logsumexp(1).sum()
    (expected,) = torch.autograd.grad(conditioned, x)
    torch.testing.assert_close(Conditioned(data)(x, 0.3), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("distance", [0.01, 0.3, 20.0])
def test_wide_mixture_is_the_power_law_with_two_dimensions_less(emoji: Tensor, distance: float) -> None:
    """Levels log-uniform on (0, ∞) integrate to Σ_j r_j^−(d−2), whose score is (d−2) Σ_j w_j (μ_j − x)/r_j²."""
    data = emoji[:200, :, ::8, ::8].float() / 255  # d = 48, so that the levels are dense against 1/√(2d)
    x = data[:5] + distance * torch.randn(5, 3, 4, 4, generator=torch.manual_seed(0))
    wide = Unconditioned(data, log_uniform(1e-5, 1e4, 3000))(x)
    difference = data.double().flatten(1) - x.double().flatten(1)[:, None]
    distance_sq = difference.square().sum(2)
    weights = torch.softmax(-(48 - 2) / 2 * distance_sq.log(), 1)
    expected = 46 * ((weights / distance_sq)[..., None] * difference).sum(1).view(x.shape)
    torch.testing.assert_close(wide.double(), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    # and the optimal shell has d where this has d − 2
    torch.testing.assert_close(
        Unconditioned(data)(x).double(), expected * 48 / 46, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )


def test_one_level_is_the_conditioned_score(emoji: Tensor) -> None:
    x = points(emoji, "between", 2.0)
    one = Unconditioned(emoji, torch.tensor([2.0]))
    torch.testing.assert_close(one(x), Conditioned(emoji)(x, 2.0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 300.0])
def test_smoothed_target_over_all_centers_is_the_tempered_score(emoji: Tensor, temperature: float) -> None:
    x = points(emoji, "near", 1.0)
    centers = (emoji.float() / 255).expand(4, -1, -1, -1, -1)
    target = smoothed_target(x, centers, 1.0, temperature)
    torch.testing.assert_close(
        Tempered(emoji, temperature)(x), target, rtol=1e-3, atol=1e-3 * float(target.abs().max())
    )


def test_temperature_schedules_are_bound_to_the_dimension(emoji: Tensor) -> None:
    x = points(emoji, "near", 1.0)
    assert torch.equal(Tempered(emoji, DimTemperature())(x), Tempered(emoji, 3072.0)(x))


def test_posterior_agrees_with_the_parts(emoji: Tensor) -> None:
    sigma = torch.tensor([0.01, 1.0, 3.0, 50.0])
    x = points(emoji, "between", 0.0) + sigma[:, None, None, None] * torch.randn(
        4, 3, 32, 32, generator=torch.manual_seed(1)
    )
    for score, level in ((Conditioned(emoji), sigma), (Tempered(emoji, 100.0), None)):
        found, weights = score.posterior(x, level), score.weights(x, level)
        assert (relative_error(found.score, score(x, level)) < 5e-4).all()  # one of them summed in two digits
        torch.testing.assert_close(found.denoised, score.denoised(x, level))
        entropy = torch.special.entr(weights.double()).sum(1)
        torch.testing.assert_close(found.effective_number.double(), entropy.exp(), rtol=1e-3, atol=0)
        torch.testing.assert_close(found.effective_number, score.effective_number(x, level), rtol=1e-3, atol=0)
        index, weight = score.dominant(x, level)
        assert torch.equal(index, found.dominant.index)
        torch.testing.assert_close(weights.gather(1, index[:, None]).squeeze(1), weight)
        torch.testing.assert_close(weight, weights.amax(1))


def test_what_is_left_out_is_bounded(emoji: Tensor) -> None:
    """The mass of centers with weight exactly 0 here is, by float64, below the bound that is returned."""
    x = points(emoji, "between", 1.0)
    for score, truth, level in (
        (Conditioned(emoji), oracle.conditioned(x, emoji, 1.0), 1.0),
        (Unconditioned(emoji), oracle.tempered(x, emoji), None),
    ):
        missing = torch.where(score.weights(x, level) == 0, truth.weights, 0).sum(1)
        bound = score.posterior(x, level).left_out
        assert (missing <= bound).all()
        assert (bound < 1e-6).all()
        assert (bound > 0).any()
    assert (Tempered(emoji, math.inf).posterior(x).left_out == 0).all()


def test_exactly_on_a_center(emoji: Tensor) -> None:
    x = emoji[[7, 70]].float() / 255
    zero = torch.zeros_like(x)
    for score in (Unconditioned(emoji), Tempered(emoji, 1.0), Tempered(emoji, 1000.0)):
        assert torch.equal(score(x), zero)
        assert score.dominant(x).index.tolist() == [7, 70]
        assert torch.equal(score.dominant(x).weight, torch.ones(2))
        torch.testing.assert_close(score.denoised(x), x)
    for sigma in (1e-4, 0.01):
        assert torch.equal(Conditioned(emoji)(x, sigma), zero)
    check(Conditioned(emoji), oracle.conditioned(x, emoji, 3.0), x, 3.0)
    check(Tempered(emoji, math.inf), oracle.tempered(x, emoji, math.inf), x)
    check(Unconditioned(emoji, shell_touch(3.0, 50, 3072)), oracle.mixture(x, emoji, shell_touch(3.0, 50, 3072)), x)


def test_duplicates_share(emoji: Tensor) -> None:
    data = torch.cat([emoji[:50], emoji[:1], emoji[:1]])
    x = emoji[:1].float() / 255
    for point in (x, x + 0.01):
        weights = Unconditioned(data).weights(point)[0]
        torch.testing.assert_close(weights[[0, 50, 51]], torch.full((3,), 1 / 3))
        assert Unconditioned(data).dominant(point).index.item() == 0
        assert Unconditioned(data).effective_number(point).item() == pytest.approx(3)


def test_infinite_temperature_and_noise_are_uniform(emoji: Tensor) -> None:
    x = points(emoji, "near", 0.1)
    mean = (emoji.double() / 255).mean(0).float()
    for score, arguments in ((Tempered(emoji, math.inf), (x,)), (Conditioned(emoji), (x, 1e8))):
        torch.testing.assert_close(score.weights(*arguments), torch.full((4, 706), 1 / 706))
        torch.testing.assert_close(score.denoised(*arguments), mean.expand_as(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(score.effective_number(*arguments), torch.full((4,), 706.0), rtol=1e-4, atol=0)
    assert torch.equal(Conditioned(emoji)(x, math.inf), torch.zeros_like(x))


@pytest.mark.parametrize("copies", [1, 300])
def test_a_single_image_or_many_equal_ones(emoji: Tensor, copies: int) -> None:
    data = emoji[:1].expand(copies, -1, -1, -1)
    x = points(emoji, "near", 0.3)
    towards = emoji[:1].float() / 255 - x
    distance_sq = towards.flatten(1).square().sum(1)[:, None, None, None]
    torch.testing.assert_close(Conditioned(data)(x, 0.5), towards / 0.25, rtol=1e-4, atol=1e-4)
    for score in (Unconditioned(data), Tempered(data, 50.0), Tempered(data, math.inf)):
        torch.testing.assert_close(score(x), 3072 * towards / distance_sq, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(score.effective_number(x), torch.full((4,), float(copies)), rtol=1e-4, atol=0)
    wide = Unconditioned(data, log_uniform(1e-3, 1e3, 4000))
    torch.testing.assert_close(wide(x), 3070 * towards / distance_sq, rtol=1e-3, atol=1e-3)


def test_planar_points() -> None:
    """d = 2: the optimal-shell weights are uniform, and a mixture still is not."""
    generator = torch.manual_seed(0)
    data, x = torch.randn(300, 2, generator=generator), torch.randn(20, 2, generator=generator)
    check(Unconditioned(data), oracle.tempered(x, data), x)
    check(Conditioned(data), oracle.conditioned(x, data, 0.2), x, 0.2)
    levels = log_uniform(0.05, 5, 40)
    check(Unconditioned(data, levels), oracle.mixture(x, data, levels), x)


def test_float_and_byte_data_agree_and_bytes_stay(emoji: Tensor) -> None:
    x = points(emoji, "between", 1.0)
    packed, floating = Conditioned(emoji), Conditioned(emoji.float() / 255)
    assert packed.centers.data.data_ptr() == emoji.data_ptr()
    torch.testing.assert_close(packed(x, 1.0), floating(x, 1.0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sigma", [0.05, 2.0, 50.0])
def test_batch_and_memory_budget_change_nothing(emoji: Tensor, sigma: float) -> None:
    x = torch.cat([points(emoji, place, sigma) for place in PLACES])
    whole, lean = Conditioned(emoji), Conditioned(emoji, memory_budget=2**16)
    together = whole(x, sigma)
    assert (relative_error(lean(x, sigma), together) < 5e-4).all()  # what is fast enough depends on the others
    alone = torch.cat([whole(point[None], sigma) for point in x])
    assert (relative_error(alone, together) < 5e-4).all()
    assert whole(x[:0], sigma).shape == (0, 3, 32, 32)
    assert whole.weights(x[:0], sigma).shape == (0, 706)


def test_every_score_is_a_samplers_score(emoji: Tensor) -> None:
    x = points(emoji, "near", 0.1)
    for score in (Unconditioned(emoji), Unconditioned(emoji, shell_touch(0.01, 50, 3072)), Tempered(emoji, 10.0)):
        assert torch.equal(score(x, 3.0), score(x))


def test_double_precision_points_keep_their_digits(emoji: Tensor) -> None:
    x = points(emoji, "near", 0.01).double()
    truth = oracle.conditioned(x, emoji, 0.01)
    assert Conditioned(emoji)(x, 0.01).dtype == torch.float64
    torch.testing.assert_close(Conditioned(emoji)(x, 0.01), truth.score, rtol=1e-7, atol=1e-7)


def test_bad_input_names_the_culprit(emoji: Tensor) -> None:
    data = emoji[:9].float() / 255
    with pytest.raises(UserError, match=r"\[2, 3, 32, 31\]"):
        Unconditioned(data)(data[:2, :, :, 1:])
    with pytest.raises(UserError, match="Row 1 of x"):
        Unconditioned(data)(torch.stack([data[0], data[1] * math.nan]))
    with pytest.raises(UserError, match="Row 4 of data"):
        Conditioned(torch.where(torch.arange(9)[:, None, None, None] == 4, math.nan, data))
    with pytest.raises(UserError, match=r"s\(x, sigma\)"):
        Conditioned(data)(data)
    with pytest.raises(UserError, match=r"sigma is 0\.0"):
        Conditioned(data)(data, torch.tensor([1.0, 0.0] + [1.0] * 7))
    with pytest.raises(UserError, match="sigma has 2 values for 9 points"):
        Conditioned(data)(data, torch.ones(2))
    for temperature in (0.0, -3.0, math.nan):
        with pytest.raises(UserError, match="temperature"):
            Tempered(data, temperature)
    with pytest.raises(UserError, match="temperature is -1"):
        Tempered(data, lambda sigma: sigma * 0 - 1)(data)
    with pytest.raises(UserError, match="temperature is -1"):
        Tempered(data, lambda sigma: sigma * 0 - 1, per_center=True)(data)
    with pytest.raises(UserError, match="sigmas"):
        Unconditioned(data, torch.tensor([1.0, -1.0]))
    with pytest.raises(UserError, match="sigmas"):
        Unconditioned(data, torch.tensor([]))
    with pytest.raises(UserError, match="single value"):
        Unconditioned(data[:, :1, 0, 0])
    with pytest.raises(UserError, match="at least one row"):
        Conditioned(data[:0])
