"""Features of a network that a local torch.hub repository builds, such as DINOv2."""

from pathlib import Path

import torch
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.neighbors.features import IMAGENET_MEAN, IMAGENET_STD, Extractor, load_weights, resized_rgb


class HubFeatures(Extractor):
    """Features [B, F] of any network in a torch.hub repository that lies on this machine, for instance DINOv2.

    The repository's own code builds the network, so name one that you trust; the weights are read from a file, and
    nothing is ever downloaded.

    Args:
        repo: folder with a hubconf.py, such as a clone of facebookresearch/dinov2.
        model: an entry of it, such as dinov2_vits14; also the name of the features.
        weights: path of the network's state dict.
        resize: height and width in pixels that the network sees (bicubic, antialiased); ImageNet's mean and deviation
            are taken out.
        normalize: divide every feature vector by its length (cosine).

    Raises:
        UserError: no such repository or entry, an entry that fails, or weights that do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, repo: str, model: str, weights: str, resize: int = 224, *, normalize: bool = False) -> None:
        super().__init__(model, normalize=normalize)
        self.resize = resize
        if not (Path(repo) / "hubconf.py").is_file():
            raise UserError(
                f"{repo} has no hubconf.py: pass the folder of a clone, such as that of "
                "https://github.com/facebookresearch/dinov2; nothing is downloaded."
            )
        try:
            network = torch.hub.load(repo, model, source="local", pretrained=False)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the repository's code raises
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise UserError(
                f"the entry {model!r} of {repo}/hubconf.py cannot be built ({reason[0]}): take one of its entries, "
                "with the packages that it needs installed."
            ) from error
        if not isinstance(network, nn.Module):
            raise UserError(f"the entry {model!r} of {repo}/hubconf.py gives a {type(network).__name__}, no network.")
        self.network = network
        load_weights(self.network, weights)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to features [B, F]."""
        features: Tensor = self.network((resized_rgb(images, self.resize) - self.mean) / self.std)
        return features
