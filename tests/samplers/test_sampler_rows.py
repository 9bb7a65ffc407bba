"""Sums per sample: right, and the same bit for bit in any batch and on any number of threads."""

import pytest
import torch

from smoothscore.samplers.rows import row_dot, row_norm, row_rms, row_sum


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dim", [1, 2, 7, 192, 1000])
def test_sums_agree_with_float64(dim):
    x, y = torch.randn(2, 3, dim, 1, generator=torch.Generator().manual_seed(0)).unbind(0)
    kept = x.clone()
    wide, other = x.double().flatten(1), y.double().flatten(1)
    for got, expected in (
        (row_sum(x), wide.sum(1)),
        (row_dot(x, y), (wide * other).sum(1)),
        (row_norm(x), wide.norm(dim=1)),
        (row_rms(x), wide.square().mean(1).sqrt()),
    ):
        torch.testing.assert_close(got.double(), expected, rtol=1e-6, atol=1e-5)
    assert torch.equal(x, kept)


def test_a_large_image_alone_and_in_a_batch(two_threads):
    # 256 x 256 x 3: with two threads torch splits the sum of one such row, but not those of two rows.
    x = torch.randn(3, 3 * 256 * 256, generator=torch.Generator().manual_seed(0))
    together = row_norm(x)
    for row in range(3):
        assert torch.equal(row_norm(x[row : row + 1].clone()), together[row : row + 1])
    torch.set_num_threads(1)
    assert torch.equal(row_norm(x), together)
