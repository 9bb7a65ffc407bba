"""The Jacobian in closed form against autograd, eigenvalues of dense matrices, and its bounds."""

import math

import pytest
import torch
from torch import Tensor

from smoothscore.errors import UserError
from smoothscore.score.empirical import Tempered
from smoothscore.score.jacobian import (
    Linearization,
    dominant_eigenpair,
    jacobian_vector_product,
    kappa,
    spectral_radius,
)
from smoothscore.score.lanczos import dominant_eigenpairs
from tests.oracle import jacobian as oracle

TEMPERATURES = [1.0, 10.0, 100.0, math.inf]
LEVELS = [None, "nearest", 0.2]


def small(emoji: Tensor, count: int = 60) -> tuple[Tensor, Tensor]:
    """Images of d = 48 values, and points near the bisectors of pairs of them."""
    data = emoji[:count, :, 2::8, 2::8].contiguous()
    images = data.float() / 255
    noise = torch.randn(6, 3, 4, 4, generator=torch.manual_seed(0))
    return (images[:6] + images[20:26]) / 2 + 0.05 * noise, data


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("sigma", LEVELS)
def test_equals_autograd(emoji: Tensor, temperature: float, sigma: float | str | None) -> None:
    x, data = small(emoji)
    dense = oracle.jacobian(x, data, temperature, sigma)
    v = torch.randn(x.shape, generator=torch.manual_seed(1))
    product = jacobian_vector_product(x, v, data, temperature, sigma=sigma)
    expected = torch.einsum("bij,bj->bi", dense, v.double().flatten(1)).view(v.shape)
    assert product.dtype == x.dtype
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))

    values = torch.linalg.eigvalsh(dense)
    radius = values.abs().amax(1)
    torch.testing.assert_close(spectral_radius(x, data, temperature, sigma=sigma).double(), radius, rtol=1e-5, atol=0)
    value, vector = dominant_eigenpair(x, data, temperature, sigma=sigma)
    end = torch.where(values[:, -1].abs() > values[:, 0].abs(), values[:, -1], values[:, 0])
    torch.testing.assert_close(value.double(), end, rtol=1e-5, atol=0)
    image = jacobian_vector_product(x, vector, data, temperature, sigma=sigma)
    residual = (image - value[:, None, None, None] * vector).flatten(1).norm(dim=1)
    assert (residual <= 1e-4 * radius).all()
    torch.testing.assert_close(vector.flatten(1).norm(dim=1), torch.ones(6))


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0, 1000.0])
@pytest.mark.parametrize("sigma", [None, "nearest"])
def test_real_images_against_the_gram_matrix(emoji: Tensor, temperature: float, sigma: str | None) -> None:
    images = emoji.float() / 255
    x = (images[[3, 90]] + images[[14, 91]]) / 2 + 0.01 * torch.randn(2, 3, 32, 32, generator=torch.manual_seed(0))
    data = emoji[:600]
    value, _ = dominant_eigenpair(x, data, temperature, sigma=sigma)
    expected = oracle.dominant_eigenvalue(x, data, temperature, sigma)
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)


def test_without_smoothing_the_score_itself_changes_so(emoji: Tensor) -> None:
    """At T = ∞ the weights are fixed: J v + κ v is 0, and κ is the mean of 1/σ*²."""
    x, data = small(emoji)
    v = torch.randn(x.shape, generator=torch.manual_seed(1))
    contraction = kappa(x, data, math.inf)
    expected = torch.stack([oracle.star(point, data, None) ** -2 for point in x]).mean(1)
    torch.testing.assert_close(contraction.double(), expected, rtol=1e-6, atol=0)
    product = jacobian_vector_product(x, v, data, math.inf)
    torch.testing.assert_close(product, -contraction[:, None, None, None] * v)
    torch.testing.assert_close(spectral_radius(x, data, math.inf), contraction)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 10.0, 40.0, 100.0, 1000.0])
def test_largest_eigenvalue_is_bounded(emoji: Tensor, temperature: float) -> None:
    """λ_max ≤ (d/T − 1) κ, with d the dimension; nearly attained between two centers at T = 1."""
    x, data = small(emoji)
    largest = torch.linalg.eigvalsh(oracle.jacobian(x, data, temperature))[:, -1]
    contraction = kappa(x, data, temperature)
    assert (largest <= (48 / temperature - 1) * contraction * (1 + 1e-5)).all()
    value = dominant_eigenpair(x, data, temperature).value
    assert (value <= ((48 / temperature - 1) * contraction * (1 + 1e-5)).clamp_min(0)).all()
    assert (value >= -contraction * (1 + 1e-5)).all()
    middle = (data[:1].float() + data[1:2].float()) / 510
    middle = middle + 1e-3 * torch.randn(middle.shape, generator=torch.manual_seed(0))
    pair = data[:2]
    ratio = dominant_eigenpair(middle, pair, 1.0).value / kappa(middle, pair, 1.0)
    assert 0.9 * 47 < float(ratio) <= 47


def test_one_temperature_for_every_point(emoji: Tensor) -> None:
    x, data = small(emoji)
    temperature = torch.tensor([1.0, 2.0, 10.0, 100.0, 1000.0, math.inf])
    together = spectral_radius(x, data, temperature)
    alone = torch.cat([spectral_radius(x[i : i + 1], data, float(temperature[i])) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=0)


def test_kappa_is_what_the_tempered_weights_say(emoji: Tensor) -> None:
    x, data = small(emoji)
    weights = Tempered(data, 10.0).weights(x).double()
    expected = (weights * torch.stack([oracle.star(point, data, None) ** -2 for point in x])).sum(1)
    torch.testing.assert_close(kappa(x, data, 10.0).double(), expected, rtol=1e-5, atol=0)


def test_memory_budget_and_symmetry(emoji: Tensor) -> None:
    x, data = small(emoji)
    x = x.double()
    lean = Linearization(x, data, 10.0, memory_budget=2**12)
    whole = Linearization(x, data, 10.0)
    v, u = torch.randn(2, *x.shape, generator=torch.manual_seed(1)).double()
    scale = float(whole.apply(v).abs().max())
    torch.testing.assert_close(lean.apply(v), whole.apply(v), rtol=1e-9, atol=1e-9 * scale)
    torch.testing.assert_close((u * whole.apply(v)).flatten(1).sum(1), (v * whole.apply(u)).flatten(1).sum(1))
    torch.testing.assert_close(lean.dominant().value, whole.dominant().value)


def test_lanczos_on_matrices_with_known_spectra() -> None:
    generator = torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 40, 40, generator=generator, dtype=torch.float64)).Q
    spectra = torch.stack(
        [
            torch.linspace(-1, 3, 40),
            torch.linspace(-3, 2.999, 40),
            torch.cat([torch.full((39,), -2.0), torch.tensor([5e3])]),  # low rank plus identity: two steps
            torch.full((40,), -7.0),
        ]
    ).double()
    matrices = basis @ torch.diag_embed(spectra) @ basis.mT
    start = torch.randn(4, 40, generator=generator, dtype=torch.float64)
    value, vector = dominant_eigenpairs(lambda v: (matrices @ v[..., None]).squeeze(2), start)
    torch.testing.assert_close(value, torch.tensor([3.0, -3.0, 5e3, -7.0], dtype=torch.float64), rtol=1e-8, atol=0)
    image = (matrices @ vector[..., None]).squeeze(2)
    torch.testing.assert_close(image, value[:, None] * vector, rtol=1e-4, atol=1e-4)


def test_bad_input_names_the_culprit(emoji: Tensor) -> None:
    x, data = small(emoji)
    images = data.float() / 255
    with pytest.raises(UserError, match="v has shape"):
        jacobian_vector_product(x, x[:2], data, 1.0)
    with pytest.raises(UserError, match=r"temperature is 0\.0"):
        kappa(x, data, 0.0)
    with pytest.raises(UserError, match=r"sigma is -1\.0"):
        kappa(x, data, 1.0, sigma=-1.0)
    with pytest.raises(UserError, match='sigma is "own"'):
        kappa(x, data, 1.0, sigma="own")  # type: ignore[arg-type]
    for sigma in (None, "nearest"):
        with pytest.raises(UserError, match="Row 1 of x lies exactly on row 5 of data"):
            spectral_radius(torch.stack([x[0], images[5]]), data, 1.0, sigma=sigma)
    assert torch.isfinite(spectral_radius(images[5:6], data, 1.0, sigma=0.1)).all()
    with pytest.raises(UserError, match="single value"):
        kappa(x[:, :1, 0, 0], data[:, :1, 0, 0], 1.0)
