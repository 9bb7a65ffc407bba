"""A diffusers network behind ours: the same numbers as diffusers itself gives."""

import sys

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned
from smoothscore.networks.diffusers import DiffusersUNet

diffusers = pytest.importorskip("diffusers")
SMALL = {
    "sample_size": 8,
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "norm_num_groups": 4,
    "layers_per_block": 1,
}


def test_pretrained_score_model_gives_its_own_score(tmp_path):
    torch.manual_seed(0)
    peer = diffusers.UNet2DModel(**SMALL, time_embedding_type="fourier", center_input_sample=True).eval()
    peer.save_pretrained(tmp_path / "saved")
    module = NoiseConditioned(DiffusersUNet(pretrained=str(tmp_path / "saved"))).eval()
    x, sigma = torch.rand(2, 3, 8, 8), torch.tensor([0.1, 3.0])
    with torch.no_grad():
        assert torch.allclose(module.score(x, sigma), peer(x, sigma).sample, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("embedding", ["fourier", "positional"])
def test_blind_network_does_not_depend_on_sigma(embedding):
    network = DiffusersUNet({**SMALL, "time_embedding_type": embedding}, conditioned=False).eval()
    told = DiffusersUNet({**SMALL, "time_embedding_type": embedding}).eval()
    x = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(network(x, 0.1), network(x, 5.0))
        assert torch.equal(network(x), network(x, 5.0))
        assert not torch.equal(told(x, 0.1), told(x, 5.0))
    assert not any(p.requires_grad for p in network.unet.time_embedding.parameters())


def test_bad_options_are_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="either config"):
        DiffusersUNet()
    with pytest.raises(UserError, match=r"no config\.json"):
        DiffusersUNet(pretrained=str(tmp_path))
    with pytest.raises(UserError, match="without sigma"):
        DiffusersUNet(SMALL)(torch.rand(1, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match="not installed"):
        DiffusersUNet(SMALL)
