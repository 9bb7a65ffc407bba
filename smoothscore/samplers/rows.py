"""Arithmetic per sample that comes out the same, bit for bit, in any batch, on any device and number of threads."""

import torch
from torch import Tensor


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """Reshape [B] to [B, 1, ..., 1] so that it multiplies x [B, *S]."""
    return values.view(-1, *[1] * (x.ndim - 1))


def row_sum(x: Tensor) -> Tensor:
    """Sum every sample of x [B, *S], in x's type: [B].

    A library's sum chooses its order by the shape of the whole tensor, so that a sample's last bit would depend on
    its batch. Here the halves of a sample are added, element by element, until one value is left.
    """
    return fold(x.flatten(1).clone())


def row_dot(x: Tensor, y: Tensor) -> Tensor:
    """⟨x, y⟩ of every sample, x and y [B, *S]: [B]."""
    return fold((x * y).flatten(1))


def row_norm(x: Tensor) -> Tensor:
    """‖x‖ of every sample of x [B, *S]: [B]."""
    return fold(x.square().flatten(1)).sqrt_()


def row_rms(x: Tensor) -> Tensor:
    """‖x‖/√d of every sample of x [B, *S], d values each: [B]."""
    return row_norm(x).div_(x[0].numel() ** 0.5)


def fold(terms: Tensor) -> Tensor:
    """Sum terms [B, d] by halves, which overwrites them: [B]."""
    width = terms.shape[1]
    while width > 1:
        half = -(-width // 2)
        torch.add(terms[:, : width - half], terms[:, half:width], out=terms[:, : width - half])
        width = half
    return terms[:, 0]
