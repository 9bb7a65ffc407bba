"""A diffusers `UNet2DModel` as the network."""

from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.networks.blocks import per_sample


class DiffusersUNet(nn.Module):
    """Predict the unit noise F in x = image + σ ε with a diffusers `UNet2DModel`, told σ or blind.

    A model with time_embedding_type="fourier" is a variance-exploding score model: it is told σ and returns h/σ, so
    F = −h. Any other embedding is of time steps: it is told 250 ln σ, and h is F. Both see 2x − 1 divided by its own
    size √(mean((2x − 1)²) + 1/4), except that a pretrained fourier model sees 2x − 1 itself, as in its training. A
    blind network is told the same constant for every image, so that its output does not depend on σ; the embedding's
    weights are removed from training.

    Args:
        config: options of `UNet2DModel`, for a new network.
        pretrained: a folder saved by diffusers, instead of `config`; nothing is downloaded.
        conditioned: False builds a blind network; a σ passed to it is ignored.

    Raises:
        UserError: diffusers is missing, both or neither of config and pretrained are given, or no such folder.
    """

    def __init__(
        self, config: dict[str, Any] | None = None, *, pretrained: str | None = None, conditioned: bool = True
    ) -> None:
        super().__init__()
        try:
            from diffusers import UNet2DModel
        except ImportError as error:
            raise UserError(
                "DiffusersUNet needs diffusers, which is not installed: run `pip install 'smoothscore[diffusers]'`."
            ) from error
        if (config is None) == (pretrained is None):
            raise UserError("DiffusersUNet takes either config, for a new network, or pretrained, a saved folder.")
        if pretrained is not None:
            if not (Path(pretrained) / "config.json").is_file():
                raise UserError(f"pretrained: {pretrained} is no folder that diffusers saved (it has no config.json).")
            unet = UNet2DModel.from_pretrained(pretrained, local_files_only=True, use_safetensors=True)
        else:
            unet = UNet2DModel(**(config or {}))
        self.unet: nn.Module = unet
        self.conditioned = conditioned
        self.fourier = unet.config.time_embedding_type == "fourier"
        self.sized = pretrained is None or not self.fourier
        self.centered = bool(unet.config.center_input_sample)
        if not conditioned:
            unet.time_embedding.requires_grad_(False)

    def forward(self, x: Tensor, sigma: Tensor | float | None = None) -> Tensor:
        """Predict the unit noise in x.

        Args:
            x: noisy images [B, C, H, W], in the units of images in [0, 1].
            sigma: their noise level, a number or [B]; required when conditioned, ignored when blind.

        Returns:
            F [B, C, H, W].

        Raises:
            UserError: a conditioned network is not told σ.
        """
        if not self.conditioned:
            levels = torch.ones(len(x), dtype=x.dtype, device=x.device)
        elif sigma is None:
            raise UserError("this network is conditioned on the noise level and was called without sigma: pass it.")
        else:
            levels = per_sample(sigma, x)
        h = 2.0 * x - 1.0
        if self.sized:
            h = h * torch.rsqrt(h.square().mean(dim=(1, 2, 3), keepdim=True) + 0.25)
        if self.centered:
            h = (h + 1.0) / 2.0  # the model itself takes 2h − 1
        out = cast(Tensor, self.unet(h, levels if self.fourier else 250 * levels.log(), return_dict=False)[0])
        return -levels.view(-1, 1, 1, 1) * out if self.fourier else out
