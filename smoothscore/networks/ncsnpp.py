"""NCSN++: the network of the paper's experiments, told σ or blind."""

import math
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from smoothscore.errors import UserError
from smoothscore.networks.blocks import Attention, ResBlock, add, conv, embed_noise, group_norm, linear
from smoothscore.networks.fir import FirConv, FirDown, FirUp
from smoothscore.networks.unet import Stage, check_sizes

Progressive = Literal["none", "output_skip"]
ProgressiveInput = Literal["none", "input_skip", "residual"]


class NCSNpp(nn.Module):
    """Predict the unit noise F in x = image + σ ε, told σ (`conditioned`) or blind.

    A U-Net of BigGAN residual blocks that resizes with FIR filters; sums are divided by √2. The defaults are the
    CIFAR-10 configuration; CelebA 64 takes image_size=64 and sigma_max=90, CelebA-HQ 256 takes image_size=256,
    ch_mult=(1, 1, 2, 2, 2, 2, 2), num_res_blocks=2, progressive="output_skip", progressive_input="input_skip",
    sigma_max=348 and num_levels=2000. x enters as 2x − 1; the score is −F(x[, σ])/σ.

    Args:
        image_size: height and width; must be divisible by 2^(len(ch_mult) − 1).
        in_channels: channels of the image.
        nf: channels at full size.
        ch_mult: channels at each size as multiples of nf.
        num_res_blocks: residual blocks at each size on the way down; there is one more on the way up.
        attn_resolutions: sizes (in pixels) with self-attention; the middle always has it.
        dropout: rate inside residual blocks.
        conditioned: False builds a blind network: no parameter for σ, and a σ passed to it is ignored.
        embedding: of σ: "fourier" (random waves of log σ) or "positional" (the number of the nearest level, counted
            from σ_max down).
        progressive: "output_skip" sums images made at every size; "none" makes one at the end.
        progressive_input: how the smaller image enters at each size: "residual", "input_skip" or "none".
        fourier_scale: standard deviation of the random waves.
        sigma_min: smallest level of the positional embedding.
        sigma_max: largest level of the positional embedding.
        num_levels: levels of the positional embedding, log-uniform.
        checkpoint_activations: compute activations again in the backward pass instead of keeping them.

    Raises:
        UserError: the image size is not divisible, ch_mult is empty, or an unknown choice.

    Source: arXiv 2011.13456, Appendix H; arXiv 2601.19285, Sec. B.3.
    """

    def __init__(
        self,
        image_size: int = 32,
        in_channels: int = 3,
        nf: int = 128,
        ch_mult: tuple[int, ...] = (1, 2, 2, 2),
        num_res_blocks: int = 4,
        attn_resolutions: tuple[int, ...] = (16,),
        dropout: float = 0.1,
        conditioned: bool = True,
        *,
        embedding: Literal["fourier", "positional"] = "fourier",
        progressive: Progressive = "none",
        progressive_input: ProgressiveInput = "residual",
        fourier_scale: float = 16.0,
        sigma_min: float = 0.01,
        sigma_max: float = 50.0,
        num_levels: int = 1000,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        check_sizes(image_size, ch_mult)
        _check_choice("embedding", embedding, ("fourier", "positional"))
        _check_choice("progressive", progressive, ("none", "output_skip"))
        _check_choice("progressive_input", progressive_input, ("none", "input_skip", "residual"))
        self.image_size, self.in_channels, self.conditioned = image_size, in_channels, conditioned
        self.progressive, self.progressive_input = progressive, progressive_input
        self.checkpoint_activations = checkpoint_activations
        width = 4 * nf if conditioned else None
        self.embedding: LevelEmbedding | None = None
        if width is not None:
            waves: FourierWaves | PositionalWaves
            waves = (
                FourierWaves(nf, fourier_scale)
                if embedding == "fourier"
                else PositionalWaves(nf, sigma_min, sigma_max, num_levels)
            )
            self.embedding = LevelEmbedding(waves, width)

        def block(channels_in: int, channels_out: int, resize: nn.Module | None = None) -> ResBlock:
            return ResBlock(channels_in, channels_out, embedding=width, dropout=dropout, resize=resize, rescale=True)

        def stage(channels_in: int, channels_out: int, attended: bool) -> Stage:
            attention = Attention(channels_out, scale=0.1, rescale=True) if attended else None
            return Stage(block(channels_in, channels_out), attention)

        # The order in which parts are registered is that of score_sde: its checkpoints are read in this order.
        self.conv_in = conv(in_channels, nf)
        channels, size, pyramid = nf, image_size, in_channels
        skips = [nf]
        self.down = nn.ModuleList()
        for level, multiple in enumerate(ch_mult):
            for _ in range(num_res_blocks):
                self.down.append(stage(channels, nf * multiple, size in attn_resolutions))
                channels = nf * multiple
                skips.append(channels)
            if level < len(ch_mult) - 1:
                self.down.append(Smaller(block(channels, channels, FirDown()), progressive_input, pyramid, channels))
                if progressive_input == "residual":
                    pyramid = channels
                skips.append(channels)
                size //= 2

        self.middle = nn.ModuleList([stage(channels, channels, True), stage(channels, channels, False)])

        self.up = nn.ModuleList()
        for level, multiple in reversed(list(enumerate(ch_mult))):
            for number in range(num_res_blocks + 1):
                attended = number == num_res_blocks and size in attn_resolutions
                self.up.append(stage(channels + skips.pop(), nf * multiple, attended))
                channels = nf * multiple
            if progressive == "output_skip":
                self.up.append(Head(channels, in_channels, first=level == len(ch_mult) - 1))
            if level > 0:
                self.up.append(block(channels, channels, FirUp()))
                size *= 2
        self.head = Head(channels, in_channels, first=True) if progressive == "none" else None

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
        pyramid = 2.0 * x - 1.0
        h = self.conv_in(pyramid)
        skips = [h]
        for layer in self.down:
            h = self._run(layer, h, embedding)
            if isinstance(layer, Smaller):
                h, pyramid = layer.enter(h, pyramid)
            skips.append(h)
        for layer in self.middle:
            h = self._run(layer, h, embedding)
        image: Tensor | None = None
        for layer in self.up:
            if isinstance(layer, Head):
                image = layer(h, image)
            else:
                h = self._run(layer, torch.cat([h, skips.pop()], dim=1) if isinstance(layer, Stage) else h, embedding)
        return cast(Tensor, image if self.head is None else self.head(h))

    def _run(self, layer: nn.Module, h: Tensor, embedding: Tensor | None) -> Tensor:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(layer, h, embedding, use_reentrant=False))
        return cast(Tensor, layer(h, embedding))


class Smaller(nn.Module):
    """A residual block to half the size, where the smaller image enters as well."""

    def __init__(self, block: ResBlock, progressive_input: ProgressiveInput, pyramid: int, channels: int) -> None:
        super().__init__()
        self.block = block
        self.progressive_input = progressive_input
        self.shrink: nn.Module = FirDown()
        self.combine: nn.Module = nn.Identity()
        if progressive_input == "residual":
            self.shrink = FirConv(pyramid, channels)
        elif progressive_input == "input_skip":
            self.combine = conv(pyramid, channels, 1)

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """H [B, C, H, W] -> [B, C, H/2, W/2]."""
        return cast(Tensor, self.block(h, embedding))

    def enter(self, h: Tensor, pyramid: Tensor) -> tuple[Tensor, Tensor]:
        """The map with the smaller image in it, and the smaller image."""
        if self.progressive_input == "none":
            return h, pyramid
        pyramid = self.shrink(pyramid)
        if self.progressive_input == "input_skip":
            return h + self.combine(pyramid), pyramid
        h = add(pyramid, h, rescale=True)
        return h, h


class Head(nn.Module):
    """An image from a map, added to the enlarged image of the size below: [B, C, H, W] -> [B, in_channels, H, W]."""

    def __init__(self, channels: int, in_channels: int, *, first: bool) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.conv = conv(channels, in_channels, scale=0.0)
        self.enlarge = None if first else FirUp()

    def forward(self, h: Tensor, image: Tensor | None = None) -> Tensor:
        """Return the image."""
        own: Tensor = self.conv(F.silu(self.norm(h)))
        return own if self.enlarge is None else own + self.enlarge(image)


class LevelEmbedding(nn.Module):
    """e(σ) = silu(W₂ silu(W₁ waves(σ))), σ [B] -> [B, features]."""

    def __init__(self, waves: "FourierWaves | PositionalWaves", features: int) -> None:
        super().__init__()
        self.waves = waves
        self.hidden = linear(waves.features, features)
        self.out = linear(features, features)

    def forward(self, sigma: Tensor) -> Tensor:
        """Embed noise levels."""
        return F.silu(self.out(F.silu(self.hidden(self.waves(sigma)))))


class FourierWaves(nn.Module):
    """[sin(2πω log σ), cos(2πω log σ)] with fixed random ω ~ N(0, scale²), σ [B] -> [B, 2 nf].

    Source: arXiv 2006.10739, as in arXiv 2011.13456.
    """

    frequencies: Tensor

    def __init__(self, nf: int, scale: float) -> None:
        super().__init__()
        self.features = 2 * nf
        self.register_buffer("frequencies", torch.randn(nf) * scale)

    def forward(self, sigma: Tensor) -> Tensor:
        """Return the waves."""
        angle = 2 * math.pi * self.frequencies * sigma.float().log()[:, None]
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class PositionalWaves(nn.Module):
    """[sin(ω n), cos(ω n)] of n, the number of the level nearest to σ, counted from σ_max down; σ [B] -> [B, nf].

    Source: arXiv 1706.03762, as in arXiv 2011.13456.
    """

    frequencies: Tensor

    def __init__(self, nf: int, sigma_min: float, sigma_max: float, num_levels: int) -> None:
        super().__init__()
        if not 0 < sigma_min < sigma_max or num_levels < 2:
            raise UserError(
                f"sigma_min is {sigma_min}, sigma_max {sigma_max} and num_levels {num_levels}: the positional "
                "embedding needs 0 < sigma_min < sigma_max and at least two levels."
            )
        self.features = nf
        self.log_max, self.last = math.log(sigma_max), num_levels - 1
        self.per_level = (self.log_max - math.log(sigma_min)) / self.last
        half = nf // 2
        waves = torch.exp(torch.arange(half) * (-math.log(10000) / (half - 1)))
        self.register_buffer("frequencies", waves, persistent=False)

    def forward(self, sigma: Tensor) -> Tensor:
        """Return the waves."""
        number = ((self.log_max - sigma.float().log()) / self.per_level).round().clamp(0, self.last)
        angle = number[:, None] * self.frequencies
        waves = torch.cat([angle.sin(), angle.cos()], dim=1)
        return F.pad(waves, (0, self.features - waves.shape[1]))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f'{name} is "{value}": choose one of {", ".join(choices)}.')
