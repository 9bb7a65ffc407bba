"""NCSN++ in plain PyTorch: resizing by padding and slicing, attention by einsum, one flat list of layers.

Names and order of the weights are those of score_sde_pytorch's checkpoints, so its state_dict is one of them. It is
what our network is compared with, for equality and for speed.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


def upfirdn(x, kernel, up=1, down=1, pad=(0, 0)):
    """Insert zeros, pad, filter, and take every `down`-th pixel."""
    batch, channels, height, width = x.shape
    x = F.pad(x.view(batch, channels, height, 1, width, 1), [0, up - 1, 0, 0, 0, up - 1])
    x = F.pad(x.view(batch, channels, height * up, width * up), [pad[0], pad[1], pad[0], pad[1]])
    flat = x.reshape(batch * channels, 1, *x.shape[2:])
    out = F.conv2d(flat, kernel.flip(0, 1)[None, None])
    return out.view(batch, channels, *out.shape[2:])[:, :, ::down, ::down]


def fir(gain=1.0):
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps)
    return gain * kernel / kernel.sum()


def shrink(x):
    return upfirdn(x, fir().to(x), down=2, pad=(1, 1))


def enlarge(x):
    return upfirdn(x, fir(4.0).to(x), up=2, pad=(2, 1))


def norm(channels):
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=1e-6)


class Waves(nn.Module):
    def __init__(self, nf, scale):
        super().__init__()
        self.W = nn.Parameter(torch.randn(nf) * scale, requires_grad=False)

    def forward(self, log_sigma):
        angle = log_sigma[:, None] * self.W[None] * 2 * math.pi
        return torch.cat([angle.sin(), angle.cos()], dim=-1)


class Matrix(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.W = nn.Parameter(torch.randn(channels, channels) / channels**0.5)
        self.b = nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        return (torch.einsum("bhwc,cd->bhwd", x.permute(0, 2, 3, 1), self.W) + self.b).permute(0, 3, 1, 2)


class AttnBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.GroupNorm_0 = norm(channels)
        self.NIN_0, self.NIN_1, self.NIN_2, self.NIN_3 = (Matrix(channels) for _ in range(4))

    def forward(self, x):
        batch, channels, height, width = x.shape
        h = self.GroupNorm_0(x)
        query, key, value = self.NIN_0(h), self.NIN_1(h), self.NIN_2(h)
        weights = torch.einsum("bchw,bcij->bhwij", query, key) * channels**-0.5
        weights = weights.reshape(batch, height, width, -1).softmax(-1).view(batch, height, width, height, width)
        return (x + self.NIN_3(torch.einsum("bhwij,bcij->bchw", weights, value))) / math.sqrt(2)


class ResnetBlock(nn.Module):
    def __init__(self, channels_in, channels_out, temb, dropout, resize=None):
        super().__init__()
        self.GroupNorm_0 = norm(channels_in)
        self.Conv_0 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        if temb:
            self.Dense_0 = nn.Linear(temb, channels_out)
        self.GroupNorm_1 = norm(channels_out)
        self.Dropout_0 = nn.Dropout(dropout)
        self.Conv_1 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        if channels_in != channels_out or resize:
            self.Conv_2 = nn.Conv2d(channels_in, channels_out, 1)
        self.resize = resize

    def forward(self, x, temb):
        h = F.silu(self.GroupNorm_0(x))
        if self.resize:
            h, x = self.resize(h), self.resize(x)
        h = self.Conv_0(h)
        if temb is not None:
            h = h + self.Dense_0(F.silu(temb))[:, :, None, None]
        h = self.Conv_1(self.Dropout_0(F.silu(self.GroupNorm_1(h))))
        if hasattr(self, "Conv_2"):
            x = self.Conv_2(x)
        return (x + h) / math.sqrt(2)


class Combine(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.Conv_0 = nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x, h):
        return self.Conv_0(x) + h


class FilteredConv(nn.Module):
    def __init__(self, channels_in, channels_out):
        super().__init__()
        self.Conv2d_0 = nn.Conv2d(channels_in, channels_out, 3, stride=2)

    def forward(self, x):
        return self.Conv2d_0(upfirdn(x, fir().to(x), pad=(2, 2)))


class PlainNCSNpp(nn.Module):
    """Returns the score h/σ; told σ by its value ("fourier") or by its level's number ("positional")."""

    def __init__(self, image_size, nf, ch_mult, num_res_blocks, attn_resolutions, dropout=0.0, conditioned=True, *,
                 embedding="fourier", progressive="none", progressive_input="residual", levels=None):  # fmt: skip
        super().__init__()
        levels = torch.logspace(math.log10(50), -2, 1000, dtype=torch.float64) if levels is None else levels
        self.register_buffer("sigmas", levels)
        self.nf, self.image_size, self.ch_mult, self.blocks = nf, image_size, ch_mult, num_res_blocks
        self.attended, self.conditioned, self.embedding = attn_resolutions, conditioned, embedding
        self.progressive, self.progressive_input = progressive, progressive_input
        temb = 4 * nf if conditioned else None
        layers = []
        if conditioned:
            if embedding == "fourier":
                layers.append(Waves(nf, 16.0))
            layers += [nn.Linear(nf * (2 if embedding == "fourier" else 1), temb), nn.Linear(temb, temb)]
        layers.append(nn.Conv2d(3, nf, 3, padding=1))
        channels, size, pyramid, skips = nf, image_size, 3, [nf]
        for level, multiple in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                layers.append(ResnetBlock(channels, nf * multiple, temb, dropout))
                channels = nf * multiple
                if size in attn_resolutions:
                    layers.append(AttnBlock(channels))
                skips.append(channels)
            if level < len(ch_mult) - 1:
                layers.append(ResnetBlock(channels, channels, temb, dropout, shrink))
                if progressive_input == "input_skip":
                    layers.append(Combine(3, channels))
                elif progressive_input == "residual":
                    layers.append(FilteredConv(pyramid, channels))
                    pyramid = channels
                skips.append(channels)
                size //= 2
        layers += [ResnetBlock(channels, channels, temb, dropout), AttnBlock(channels),
                   ResnetBlock(channels, channels, temb, dropout)]  # fmt: skip
        for level, multiple in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                layers.append(ResnetBlock(channels + skips.pop(), nf * multiple, temb, dropout))
                channels = nf * multiple
            if size in attn_resolutions:
                layers.append(AttnBlock(channels))
            if progressive == "output_skip":
                layers += [norm(channels), nn.Conv2d(channels, 3, 3, padding=1)]
            if level > 0:
                layers.append(ResnetBlock(channels, channels, temb, dropout, enlarge))
                size *= 2
        if progressive == "none":
            layers += [norm(channels), nn.Conv2d(channels, 3, 3, padding=1)]
        self.all_modules = nn.ModuleList(layers)

    def forward(self, x, level):
        layers = iter(self.all_modules)
        temb = None
        sigma = level if self.embedding == "fourier" else self.sigmas[level].to(x)
        if self.conditioned:
            if self.embedding == "fourier":
                temb = next(layers)(sigma.log())
            else:
                half = self.nf // 2
                wave = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
                angle = level.float()[:, None] * wave[None]
                temb = torch.cat([angle.sin(), angle.cos()], dim=1)
            temb = next(layers)(temb)
            temb = next(layers)(F.silu(temb))
        x = 2 * x - 1
        pyramid = x
        skips = [next(layers)(x)]
        for level_number in range(len(self.ch_mult)):
            for _ in range(self.blocks):
                h = next(layers)(skips[-1], temb)
                if h.shape[-1] in self.attended:
                    h = next(layers)(h)
                skips.append(h)
            if level_number < len(self.ch_mult) - 1:
                h = next(layers)(skips[-1], temb)
                if self.progressive_input == "input_skip":
                    pyramid = shrink(pyramid)
                    h = next(layers)(pyramid, h)
                elif self.progressive_input == "residual":
                    h = pyramid = (next(layers)(pyramid) + h) / math.sqrt(2)
                skips.append(h)
        h = next(layers)(h, temb)
        h = next(layers)(h)
        h = next(layers)(h, temb)
        image = None
        for level_number in reversed(range(len(self.ch_mult))):
            for _ in range(self.blocks + 1):
                h = next(layers)(torch.cat([h, skips.pop()], dim=1), temb)
            if h.shape[-1] in self.attended:
                h = next(layers)(h)
            if self.progressive == "output_skip":
                part = next(layers)(h)
                part = next(layers)(F.silu(part))
                image = part if image is None else enlarge(image) + part
            if level_number > 0:
                h = next(layers)(h, temb)
        if self.progressive == "none":
            h = next(layers)(h)
            image = next(layers)(F.silu(h))
        return image / sigma.view(-1, 1, 1, 1)
