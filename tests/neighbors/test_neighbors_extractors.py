"""The FID's Inception network and networks from a torch.hub folder, held to independent constructions."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import inception

from smoothscore.errors import UserError
from smoothscore.neighbors import HubFeatures, InceptionFeatures
from smoothscore.neighbors.inception import resize_like_tensorflow


class A(inception.InceptionA):
    def _forward(self, x: Tensor) -> list[Tensor]:
        pool = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double, self.branch_pool(pool)]


class C(inception.InceptionC):
    def _forward(self, x: Tensor) -> list[Tensor]:
        pool = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = x
        for part in range(1, 6):
            double = getattr(self, f"branch7x7dbl_{part}")(double)
        return [self.branch1x1(x), single, double, self.branch_pool(pool)]


class E(inception.InceptionE):
    def _forward(self, x: Tensor) -> list[Tensor]:
        narrow = self.in_channels == 1280
        pool = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False) if narrow else F.max_pool2d(x, 3, 1, 1)
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return [
            self.branch1x1(x),
            torch.cat([self.branch3x3_2a(single), self.branch3x3_2b(single)], 1),
            torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1),
            self.branch_pool(pool),
        ]

    def __init__(self, in_channels: int, **options: object) -> None:
        super().__init__(in_channels, **options)
        self.in_channels = in_channels


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in the shape of the FID's, with statistics that keep signals alive."""
    torch.manual_seed(0)
    network = inception.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_inception_is_torchvisions_with_the_pooling_of_2015(weights, emoji):
    blocks = [inception.BasicConv2d, A, inception.InceptionB, C, inception.InceptionD, E, inception.InceptionAux]
    plain = inception.Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False).eval()
    plain.load_state_dict(torch.load(weights, weights_only=True))
    plain.fc, plain.dropout = nn.Identity(), nn.Identity()
    images = emoji[:2].float() / 255
    extractor = InceptionFeatures(str(weights))
    with torch.no_grad():
        expected = plain((resize_like_tensorflow(255 * images, 299) - 128) / 128)
    features = extractor(images)
    assert features.shape == (2, 2048)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-6)
    assert float(features.std()) > 0.1  # far above the tolerance
    torch.testing.assert_close(extractor(emoji[:2]), features)
    torch.testing.assert_close(extractor(images + 0.001), features)  # between two 8-bit values
    assert extractor.name == "inception"


def test_inception_equals_torch_fidelity(weights, emoji):
    peer = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    network = peer.FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(weights))
    (expected,) = network(emoji[:2])
    torch.testing.assert_close(InceptionFeatures(str(weights))(emoji[:2]), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("old", "new"), [(32, 299), (300, 299), (7, 3), (5, 5)])
def test_resize_reads_value_i_at_i_times_old_over_new(old, new):
    """One axis at a time, written out; the last value is repeated beyond the border."""
    line = torch.rand(old, generator=torch.Generator().manual_seed(0))
    expected = []
    for place in range(new):
        at = place * old / new
        low = int(at)
        high = min(low + 1, old - 1)
        expected.append(float(line[low] + (at - low) * (line[high] - line[low])))
    image = line[None, None, :, None].expand(1, 1, old, old)
    found = resize_like_tensorflow(image, new)
    torch.testing.assert_close(found[0, 0, :, 0], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(resize_like_tensorflow(image.transpose(2, 3), new), found.transpose(2, 3))


HUB = """
import torch
dependencies = ["torch"]
class Patches(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 5, 14, 14)
    def forward(self, x):
        return self.embed(x).mean((2, 3))
def tiny(pretrained=True):
    assert not pretrained, "the weights come from a file"
    return Patches()
def broken(pretrained=True):
    raise RuntimeError("needs xformers")
def no_network(pretrained=True):
    return 3
"""


@pytest.fixture
def repo(tmp_path):
    (tmp_path / "hubconf.py").write_text(HUB)
    return tmp_path


def test_hub_network_with_weights_from_a_file(repo, emoji):
    convolution = nn.Conv2d(3, 5, 14, 14)
    torch.save({f"embed.{name}": value for name, value in convolution.state_dict().items()}, repo / "w.pth")
    extractor = HubFeatures(str(repo), "tiny", str(repo / "w.pth"), resize=28)
    assert extractor.name == "tiny"
    images = emoji[:6].float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    resized = F.interpolate(images, (28, 28), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = convolution((resized - mean[:, None, None]) / std[:, None, None]).mean((2, 3))
    torch.testing.assert_close(extractor(emoji[:6]), expected)
    normalized = HubFeatures(str(repo), "tiny", str(repo / "w.pth"), resize=28, normalize=True)
    torch.testing.assert_close(normalized(emoji[:6]), F.normalize(expected, dim=1))


def test_errors_name_the_culprit(repo, weights, tmp_path):
    torch.save({"embed.weight": torch.zeros(1)}, repo / "w.pth")
    for match, call in {
        "never downloads them: get weights-inception-2015-12-05-6726825d.pth": lambda: InceptionFeatures(),
        "no weights file": lambda: InceptionFeatures(str(tmp_path / "none.pth")),
        "cannot be loaded into Inception3": lambda: InceptionFeatures(str(repo / "w.pth")),
        r"takes images \[B, 3, H, W\]": lambda: InceptionFeatures(str(weights))(torch.zeros(2, 5)),
        "has no hubconf.py": lambda: HubFeatures(str(tmp_path / "nowhere"), "tiny", "w.pth"),
        "the entry 'absent' of": lambda: HubFeatures(str(repo), "absent", "w.pth"),
        "needs xformers": lambda: HubFeatures(str(repo), "broken", "w.pth"),
        "gives a int, no network": lambda: HubFeatures(str(repo), "no_network", "w.pth"),
        "cannot be loaded into Patches": lambda: HubFeatures(str(repo), "tiny", str(repo / "w.pth")),
    }.items():
        with pytest.raises(UserError, match=match):
            call()
