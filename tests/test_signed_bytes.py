"""Products of bytes: exact whole numbers, errors within what is said of them, and images that are not 8-bit ones."""

import pytest
import torch
from torch import Tensor

from smoothscore.distances import signed
from smoothscore.distances.signed import SignedBytes, multiplies_bytes, rounding


@pytest.fixture
def images(emoji: Tensor) -> Tensor:
    return emoji[:300].flatten(1)


def centered(images: Tensor) -> Tensor:
    return (images.double() - 128) / 255


def test_8_bit_images_in_any_type_are_the_same_bytes(images: Tensor) -> None:
    expected = (images.int() - 128).to(torch.int8)
    decoded = images.float() / 255
    for form in (images, decoded, images.double() / 255):
        found = SignedBytes.of(form)
        assert found is not None
        assert torch.equal(found.rows, expected)
    for other in (decoded + 1e-7, decoded * 0.5, decoded.where(decoded > 0, torch.nan), decoded + 1, decoded.half()):
        assert SignedBytes.of(other) is None
    one = decoded.clone()
    one[-1, -1] += 1e-6
    assert SignedBytes.of(one) is None
    assert SignedBytes.of(torch.zeros(1, 2**16 + 1, dtype=torch.uint8)) is None


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_products_of_fixed_point_numbers_are_exact(images: Tensor, digits: int) -> None:
    whole = torch.randint(-127 * 256 ** (digits - 1), 127 * 256 ** (digits - 1) + 1, (5, 3072))
    whole[:, 0] = 127 * 256 ** (digits - 1)  # so that the step is 1
    data = SignedBytes.of(images)
    assert data is not None
    found = data.products(whole.double(), digits=digits).double() * 255
    expected = whole.double() @ (images.double() - 128).T
    scale = whole.double().norm(dim=1, keepdim=True) * (images.double() - 128).norm(dim=1)
    assert ((found - expected).abs() <= 7 * 2.0**-24 * scale).all()
    columns = torch.tensor([250, 3, 17])
    assert torch.equal(data.products(whole.double(), columns, digits=digits).double() * 255, found[:, columns])


@pytest.mark.parametrize("digits", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weighted_sums_are_as_near_as_their_digits(
    images: Tensor, digits: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = torch.rand(6, 300, dtype=dtype, generator=torch.Generator().manual_seed(0)).pow(4)
    weights[0], weights[1] = 0, torch.eye(300, dtype=dtype)[7]
    data = SignedBytes.of(images)
    assert data is not None
    expected = weights.double() @ centered(images)
    found = data.weighted_sum(weights, digits=digits)
    of_row = weights.double().amax(1) * rounding(digits) * centered(images).norm(dim=1).sum()
    relative = 2.0**-23 * (weights.double() @ centered(images).norm(dim=1)) * (dtype == torch.float32)
    assert ((found - expected).norm(dim=1) <= of_row + relative + 1e-12).all()
    assert torch.equal(found[0], torch.zeros(3072, dtype=torch.float64))
    monkeypatch.setattr(signed, "_LONGEST", 128)  # several products
    assert torch.equal(data.weighted_sum(weights, digits=digits), found)
    columns = torch.arange(299, -1, -3)
    part = data.weighted_sum(weights[:, columns], columns, digits=digits)
    sparse = torch.zeros_like(weights).index_copy(1, columns, weights[:, columns])
    torch.testing.assert_close(part, data.weighted_sum(sparse, digits=digits), rtol=0, atol=1e-12)


def test_more_centers_than_a_32_bit_sum_holds() -> None:
    rows = torch.full((2**17 + 5, 2), 255, dtype=torch.uint8)
    data = SignedBytes.of(rows)
    assert data is not None
    found = data.weighted_sum(torch.ones(1, len(rows)), digits=2)
    torch.testing.assert_close(found, torch.full((1, 2), len(rows) * 127 / 255, dtype=torch.float64))


def test_only_where_the_processor_has_units_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True})
    assert multiplies_bytes(torch.device("cpu"))
    assert not multiplies_bytes(torch.device("cuda"))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert not multiplies_bytes(torch.device("cpu"))
