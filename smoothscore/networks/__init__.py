"""Networks that predict the unit noise F in x = image + σ ε, told σ or blind."""

from smoothscore.networks.ncsnpp import NCSNpp
from smoothscore.networks.score_sde import import_score_sde
from smoothscore.networks.unet import UNet

__all__ = ["NCSNpp", "UNet", "import_score_sde"]
