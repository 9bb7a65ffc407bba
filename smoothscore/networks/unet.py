"""A small U-Net that trains in minutes on a CPU: the network of the demo."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.networks.blocks import (
    Attention,
    NoiseEmbedding,
    ResBlock,
    Upsample,
    conv,
    embed_noise,
    group_norm,
)


class UNet(nn.Module):
    """Predict the unit noise F in x = image + σ ε, told σ (`conditioned`) or blind.

    The score is −F(x[, σ])/σ, where a blind network leaves σ to whoever asks. Each image enters as 2x − 1
    divided by its own size √(mean((2x − 1)²) + 1/4), which a blind network may know because no noise level is
    needed for it: up to any σ the activations stay near 1. One over that size enters as one more channel.

    Args:
        image_size: height and width; must be divisible by 2^(len(ch_mult) − 1).
        in_channels: channels of the image.
        nf: channels at full size.
        ch_mult: channels at each size as multiples of nf; the size is halved from one entry to the next.
        num_res_blocks: residual blocks at each size on the way down; there is one more on the way up.
        attn_resolutions: sizes (in pixels) with self-attention; a size that does not occur is passed over,
            so one list may serve several image sizes.
        dropout: rate inside residual blocks.
        conditioned: False builds a blind network: no parameter for σ, and a σ passed to it is ignored.

    Raises:
        UserError: the image size is not divisible, or ch_mult is empty.

    Source: arXiv 2601.19285, Eq. (8) and (9); the architecture follows arXiv 2011.13456.
    """

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        nf: int = 32,
        ch_mult: tuple[int, ...] = (1, 2, 2),
        num_res_blocks: int = 1,
        attn_resolutions: tuple[int, ...] = (),
        dropout: float = 0.0,
        conditioned: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(image_size, ch_mult)
        self.image_size, self.in_channels, self.conditioned = image_size, in_channels, conditioned
        width = 4 * nf if conditioned else None
        self.embedding = None if width is None else NoiseEmbedding(width)

        def stage(channels_in: int, channels_out: int, size: int) -> Stage:
            block = ResBlock(channels_in, channels_out, embedding=width, dropout=dropout)
            return Stage(block, Attention(channels_out) if size in attn_resolutions else None)

        self.conv_in = conv(in_channels + 1, nf)
        channels, size = nf, image_size
        skips = [channels]
        self.down = nn.ModuleList()
        for level, multiple in enumerate(ch_mult):
            if level > 0:
                self.down.append(conv(channels, channels, stride=2))
                size //= 2
                skips.append(channels)
            for _ in range(num_res_blocks):
                self.down.append(stage(channels, nf * multiple, size))
                channels = nf * multiple
                skips.append(channels)

        self.middle = nn.ModuleList(stage(channels, channels, size) for _ in range(2))

        self.up = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(ch_mult))):
            for _ in range(num_res_blocks + 1):
                self.up.append(stage(channels + skips.pop(), nf * multiple, size))
                channels = nf * multiple
            if level > 0:
                self.up.append(Upsample(channels))
                size *= 2
        self.norm_out = group_norm(channels)
        self.conv_out = conv(channels, in_channels, scale=0.0)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Predict the unit noise in x.

        Args:
            x: noisy images [B, in_channels, image_size, image_size], in the units of images in [0, 1].
            sigma: their noise level, a number or [B]; required when conditioned, ignored when blind.

        Returns:
            F [B, in_channels, image_size, image_size], about 1 in size.

        Raises:
            UserError: x has another shape, or a conditioned network is not told σ.
        """
        embedding = embed_noise(self, self.embedding, x, sigma)
        h = 2.0 * x - 1.0
        gain = torch.rsqrt(h.square().mean(dim=(1, 2, 3), keepdim=True) + 0.25)
        # The gain is a channel of its own: without it a faded image would look like a bright one.
        h = self.conv_in(torch.cat([h * gain, gain.expand(-1, 1, *h.shape[2:])], dim=1))
        skips = [h]
        for layer in self.down:
            h = layer(h, embedding) if isinstance(layer, Stage) else layer(h)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, embedding)
        for layer in self.up:
            h = layer(torch.cat([h, skips.pop()], dim=1), embedding) if isinstance(layer, Stage) else layer(h)
        return cast(Tensor, self.conv_out(F.silu(self.norm_out(h))))


class Stage(nn.Module):
    """A residual block, then attention or none: h [B, C, H, W], e [B, E] or None -> [B, C', H, W]."""

    def __init__(self, block: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """Apply both, [B, C', H, W]."""
        h = self.block(h, embedding)
        return h if self.attention is None else cast(Tensor, self.attention(h))


def check_sizes(image_size: int, ch_mult: tuple[int, ...]) -> None:
    """Check that the image can be halved between all entries of ch_mult.

    Raises:
        UserError: ch_mult is empty, or 2^(len(ch_mult) − 1) does not divide the image size.
    """
    if not ch_mult:
        raise UserError("ch_mult is empty: give one channel multiple per size, such as [1, 2, 2].")
    factor = 1 << (len(ch_mult) - 1)
    if image_size < factor or image_size % factor:
        raise UserError(
            f"image_size={image_size} is not divisible by {factor}, the downsampling of "
            f"ch_mult={list(ch_mult)}: choose a multiple of {factor}, or a ch_mult with fewer entries."
        )
