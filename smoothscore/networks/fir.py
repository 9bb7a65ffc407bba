"""Resizing by two with a finite impulse response filter, [1, 3, 3, 1] in each direction, by grouped convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothscore.networks.blocks import init_fan_avg_

_TAPS = (1.0, 3.0, 3.0, 1.0)


class FirDown(nn.Module):
    """Half the size: filter, then every second pixel; zero outside. [B, C, H, W] -> [B, C, H/2, W/2].

    Source: arXiv 1904.11486 (anti-aliased downsampling), as in arXiv 2011.13456.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(gain=1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map."""
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 4, 4), stride=2, padding=1, groups=channels)


class FirUp(nn.Module):
    """Twice the size: zeros between pixels, then the filter; zero outside. [B, C, H, W] -> [B, C, 2H, 2W].

    Source: as `FirDown`.
    """

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(gain=4.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the larger map."""
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, 4, 4)
        return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class FirConv(nn.Module):
    """Filter, then a 3×3 convolution of stride 2, as one: the filter's map is never cropped in between.

    [B, C_in, H, W] -> [B, C_out, H/2, W/2]. Source: arXiv 1912.04958 (StyleGAN2), as in arXiv 2011.13456.
    """

    kernel: Tensor

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.register_buffer("kernel", _kernel(gain=1.0), persistent=False)
        self.conv = nn.Conv2d(channels_in, channels_out, 3, stride=2)
        init_fan_avg_(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        """Return the smaller map, [B, C_out, H/2, W/2]."""
        channels = x.shape[1]
        x = F.conv2d(x, self.kernel.to(x.dtype).expand(channels, 1, 4, 4), padding=2, groups=channels)
        out: Tensor = self.conv(x)
        return out


def _kernel(gain: float) -> Tensor:
    taps = torch.tensor(_TAPS)
    taps = taps / taps.sum()
    return gain * torch.outer(taps, taps)
