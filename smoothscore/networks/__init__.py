"""Networks that predict the unit noise F in x = image + σ ε, told σ or blind."""

from smoothscore.networks.unet import UNet

__all__ = ["UNet"]
