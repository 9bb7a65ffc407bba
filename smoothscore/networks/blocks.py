"""Parts that networks are built of: initialization, noise embedding, residual block, attention, resizing."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothscore.errors import UserError


def group_norm(channels: int, eps: float = 1e-6) -> nn.GroupNorm:
    """GroupNorm with the most groups, at most 32, that divide the channels with at least 4 channels each.

    Source: arXiv 2011.13456, NCSN++ (min(C // 4, 32) groups, ε = 1e-6).
    """
    groups = min(max(channels // 4, 1), 32)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels, eps=eps)


def init_fan_avg_(layer: nn.Conv2d | nn.Linear, scale: float = 1.0) -> None:
    """Fill the weight uniformly with variance scale / ((fan_in + fan_out) / 2) and the bias with zeros.

    A scale of 0 becomes 1e-10: the output starts at zero for every practical purpose, yet each parameter
    before it receives a gradient from the first step on. Source: arXiv 2011.13456 (DDPM initialization).
    """
    nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(scale or 1e-10))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def conv(channels_in: int, channels_out: int, kernel: int = 3, *, stride: int = 1, scale: float = 1.0) -> nn.Conv2d:
    """Convolution of odd kernel that keeps the size (or divides it by the stride), set by fan average."""
    layer = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2)
    init_fan_avg_(layer, scale)
    return layer


def linear(features_in: int, features_out: int, *, scale: float = 1.0) -> nn.Linear:
    """Linear layer initialized by fan average."""
    layer = nn.Linear(features_in, features_out)
    init_fan_avg_(layer, scale)
    return layer


def per_sample(sigma: Tensor | float, x: Tensor) -> Tensor:
    """Noise levels as a tensor [B] of x's type and device, from a number, a [1] or a [B] tensor.

    Raises:
        UserError: sigma has another shape.
    """
    levels = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
    if levels.ndim > 1 or (levels.ndim == 1 and len(levels) not in (1, len(x))):
        raise UserError(
            f"sigma has shape {tuple(levels.shape)} for a batch of {len(x)} images: give one number, or one per image."
        )
    return levels.expand(len(x))


def embed_noise(
    network: nn.Module, embedding: nn.Module | None, x: Tensor, sigma: Tensor | float | None
) -> Tensor | None:
    """Check what a network is called with, and embed the noise levels; None where it is blind.

    Args:
        network: with `image_size` and `in_channels`; errors name its class.
        embedding: of σ [B], or None.
        x: its images [B, *S].
        sigma: their noise level.

    Raises:
        UserError: x has another shape, or a conditioned network is not told σ.
    """
    name = type(network).__name__
    shape = cast(tuple[int, ...], (network.in_channels, network.image_size, network.image_size))
    if x.shape[1:] != shape:
        raise UserError(f"this {name} was built for images {shape} and was given {tuple(x.shape[1:])}.")
    if embedding is None:
        return None
    if sigma is None:
        raise UserError(
            f"this {name} is conditioned on the noise level and was called without sigma: pass sigma "
            "(a number or [B]), or build the network with conditioned=False."
        )
    return cast(Tensor, embedding(per_sample(sigma, x)))


class NoiseEmbedding(nn.Module):
    """Embedding of the noise level: sines and cosines of log σ, then a two-layer perceptron.

    e(σ) = silu(W₂ silu(W₁ [sin(ω log σ), cos(ω log σ)])), ω geometric from 1/8 to 16: seven decades of σ lie
    within one period of the slowest wave, and neighbors in a schedule of 1000 levels still differ in the
    fastest. σ [B] (in the units of images in [0, 1]) -> [B, features].
    """

    def __init__(self, features: int, *, waves: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.logspace(-3, 4, waves, base=2.0), persistent=False)
        self.hidden = linear(2 * waves, features)
        self.out = linear(features, features)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed noise levels: σ [B] -> [B, features]."""
        frequencies: Tensor = self.get_buffer("frequencies")
        angle = sigma.log()[:, None] * frequencies
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        return F.silu(self.out(F.silu(self.hidden(waves))))


class ResBlock(nn.Module):
    """Residual block, told σ through an embedding e or not at all, at one size or to another.

    skip(h) + conv(dropout(silu(norm(conv(resize(silu(norm(h)))) + W e)))), skip a 1×1 convolution where the channels
    or the size change. `embedding` is the width of e; None builds a blind block, which has no parameter for it.
    h [B, C_in, H, W], e [B, embedding] or None -> [B, C_out, H', W'].

    Args:
        channels_in: C_in.
        channels_out: C_out.
        embedding: width of e, or None.
        dropout: rate before the last convolution.
        resize: module without parameters that doubles or halves the map, linear, or None.
        rescale: divide the sum by √2, so that its variance is that of its parts.

    Source: arXiv 1809.11096 (BigGAN), as in arXiv 2011.13456.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        embedding: int | None = None,
        dropout: float = 0.0,
        resize: nn.Module | None = None,
        rescale: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = conv(channels_in, channels_out)
        self.embed = None if embedding is None else linear(embedding, channels_out)
        self.norm2 = group_norm(channels_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = conv(channels_out, channels_out, scale=0.0)
        same = channels_in == channels_out and resize is None
        self.shortcut = nn.Identity() if same else conv(channels_in, channels_out, 1)
        self.resize = resize
        self.rescale = rescale

    def forward(self, h: Tensor, embedding: Tensor | None = None) -> Tensor:
        """Return the block's output, [B, C_out, H', W']."""
        inner = F.silu(self.norm1(h))
        bias = cast(Tensor, self.conv2.bias)
        if self.resize is None:
            skip = self.shortcut(h)
        else:
            inner = self.resize(inner)
            shortcut = cast(nn.Conv2d, self.shortcut)
            # A 1×1 convolution and resizing commute, except for the bias, which is added at the end: the convolution
            # runs on the smaller of the two maps.
            larger = inner.shape[-1] > h.shape[-1]
            skip = self.resize(F.conv2d(h, shortcut.weight)) if larger else F.conv2d(self.resize(h), shortcut.weight)
            bias = bias + cast(Tensor, shortcut.bias)
        inner = self.conv1(inner)
        if self.embed is not None:
            inner = inner + self.embed(embedding)[:, :, None, None]
        inner = self.dropout(F.silu(self.norm2(inner)))
        inner = F.conv2d(inner, self.conv2.weight, bias, padding=1)
        return add(skip, inner, rescale=self.rescale)


class Attention(nn.Module):
    """Self-attention over pixels, one head: h + W softmax(q kᵀ / √C) v. [B, C, H, W] -> [B, C, H, W].

    Args:
        channels: C.
        scale: variance with which the projections to q, k and v start, in units of the fan average.
        rescale: divide the sum by √2.
    """

    def __init__(self, channels: int, *, scale: float = 1.0, rescale: bool = False) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.qkv = conv(channels, 3 * channels, 1)
        with torch.no_grad():
            for weight in self.qkv.weight.chunk(3):
                nn.init.xavier_uniform_(weight, gain=math.sqrt(scale))
        self.out = conv(channels, channels, 1, scale=0.0)
        self.rescale = rescale

    def forward(self, h: Tensor) -> Tensor:
        """Return the block's output, [B, C, H, W]."""
        batch, channels, height, width = h.shape
        qkv = self.qkv(self.norm(h)).flatten(2).transpose(1, 2)  # [B, H·W, 3C]
        query, key, value = qkv[:, None].chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)[:, 0]
        mixed = mixed.transpose(1, 2).reshape(batch, channels, height, width)
        return add(h, self.out(mixed), rescale=self.rescale)


def add(skip: Tensor, inner: Tensor, *, rescale: bool) -> Tensor:
    """Skip + inner, over √2 if asked."""
    return (skip + inner).mul_(1 / math.sqrt(2)) if rescale else skip + inner


class Upsample(nn.Module):
    """Twice the size by repeating pixels, then a convolution. [B, C, H, W] -> [B, C, 2H, 2W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv(channels, channels)

    def forward(self, h: Tensor) -> Tensor:
        """Return the larger map, [B, C, 2H, 2W]."""
        out: Tensor = self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        return out
