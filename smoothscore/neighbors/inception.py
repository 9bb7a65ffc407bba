"""The Inception features of the FID, from a weights file of your own."""

import importlib

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smoothscore.errors import UserError
from smoothscore.neighbors.features import Extractor, load_weights

_SIZE = 299
_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


class InceptionFeatures(Extractor):
    """The 2048 pooled Inception features that the FID is defined by; only in them a Fréchet distance is the FID.

    The network of 2015 differs from torchvision's: its average pools leave the border out, its last one is a maximum,
    and images are resized as TensorFlow 1 did, without antialiasing, from 8-bit values. The weights are read from a
    file you name; nothing is ever downloaded.

    Args:
        weights: path of the state dict that torch-fidelity and pytorch-fid distribute.
        normalize: divide every feature vector by its length (cosine); the FID does not.

    Raises:
        UserError: no file (the message says which one there is), or one that does not hold this network's weights.

    Source: Heusel et al. 2017 (arXiv 1706.08500).
    """

    def __init__(self, weights: str | None = None, *, normalize: bool = False) -> None:
        super().__init__("inception", normalize=normalize)
        if weights is None:
            raise UserError(
                "InceptionFeatures needs its weights and never downloads them: get "
                f"{_URL.rsplit('/', 1)[-1]} from {_URL} and pass its path as `weights`."
            )
        models = importlib.import_module("torchvision.models")  # slow to import, needed only here
        self.network: nn.Module = models.Inception3(
            num_classes=1008, aux_logits=False, transform_input=False, init_weights=False
        )
        load_weights(self.network, weights)
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] (or gray) in [0, 1], rounded to 8 bits, to features [B, 2048]."""
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise UserError(
                f"InceptionFeatures takes images [B, 3, H, W] (or gray [B, 1, H, W]), not {list(images.shape)}."
            )
        x = (255 * images.expand(-1, 3, -1, -1)).round().clamp(0, 255)
        x = (resize_like_tensorflow(x, _SIZE) - 128) / 128
        for name, block in self.network.named_children():
            if name == "dropout":  # what follows only classifies
                break
            x = _pooled(block, x, last=name == "Mixed_7c") if hasattr(block, "branch_pool") else block(x)
        return x.flatten(1)


def resize_like_tensorflow(images: Tensor, size: int) -> Tensor:
    """Bilinear resize to size × size as TensorFlow 1 did it: value i is read at i · old/new, with no half-pixel shift.

    Args:
        images: [B, C, H, W].
        size: new height and width in pixels.

    Returns:
        [B, C, size, size].
    """
    rows, columns = (_interpolation(length, size).to(images) for length in images.shape[-2:])
    return rows @ images @ columns.T


def _interpolation(old: int, new: int) -> Tensor:
    """The matrix [new, old] that interpolates one axis linearly."""
    # positions in float32, as there: in float64 a few would fall on the other side of a whole number
    at = torch.arange(new, dtype=torch.float32) * (torch.tensor(old, dtype=torch.float32) / new)
    low = at.floor()
    share = at - low
    lower, upper = F.one_hot(low.long(), old), F.one_hot((low.long() + 1).clamp_max(old - 1), old)
    return (1 - share)[:, None] * lower + share[:, None] * upper


def _pooled(block: nn.Module, x: Tensor, *, last: bool) -> Tensor:
    """A block of torchvision's, with the pooling of the network of 2015 in its last branch."""
    pooled = F.max_pool2d(x, 3, 1, 1) if last else F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
    branches = block._forward(x)[:-1]  # type: ignore[operator]
    return torch.cat([*branches, block.branch_pool(pooled)], dim=1)  # type: ignore[operator]
