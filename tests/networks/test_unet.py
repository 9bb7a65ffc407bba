"""The small U-Net: told σ or blind, finite at any noise level, and clear about what it cannot take."""

import pytest
import torch
from jsonargparse import ArgumentParser
from torch import nn

from smoothscore.errors import UserError
from smoothscore.networks import UNet


def small(**options) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"image_size": 16, "nf": 8, "ch_mult": (1, 2), "attn_resolutions": (8,)} | options)


def wake(net: UNet) -> UNet:
    """Give the layers that start at zero a weight, as training does."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.abs().max() < 1e-3:
            nn.init.xavier_uniform_(module.weight)
    return net


@pytest.fixture
def images(emoji):
    return nn.functional.avg_pool2d(emoji[:4] / 255, 2)


def noisy(images, sigma, seed=0):
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))


def test_blind_ignores_sigma_bitwise(images):
    net = wake(small(conditioned=False))
    expected = net(images)
    for sigma in (0.01, 50.0, torch.full((4,), 3.0)):
        assert torch.equal(net(images, sigma), expected)


def test_conditioned_listens_to_sigma(images):
    net = wake(small())
    assert (net(images, 0.1) - net(images, 0.11)).abs().max() > 1e-4
    torch.testing.assert_close(net(images, 0.1), net(images, torch.full((4,), 0.1)), rtol=0, atol=0)


def test_every_parameter_receives_a_gradient_from_the_first_step(images):
    for conditioned in (True, False):
        net = small(conditioned=conditioned)
        net(noisy(images, 0.5), 0.5).square().sum().backward()
        dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
        assert dead == []


def test_blind_has_no_parameter_for_sigma():
    blind, told = small(conditioned=False), small()
    assert not [name for name, _ in blind.named_parameters() if "embed" in name or "sigma" in name]
    assert not list(blind.named_buffers())
    count = {net: sum(p.numel() for p in net.parameters()) for net in (blind, told)}
    embedding = sum(p.numel() for name, p in told.named_parameters() if "embed" in name)
    assert count[told] - count[blind] == embedding > 0


@pytest.mark.parametrize("conditioned", [True, False])
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 50.0])
def test_finite_and_about_unit_size_at_any_noise(images, conditioned, sigma):
    net = wake(small(conditioned=conditioned))
    x = noisy(images, sigma).requires_grad_()
    out = net(x, sigma)
    out.square().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert x.grad.isfinite().all()
    assert 0.05 < out.square().mean().sqrt() < 20


def test_starts_at_zero(images):
    for conditioned in (True, False):
        assert small(conditioned=conditioned)(noisy(images, 1.0), 1.0).abs().max() < 1e-3


def test_sample_does_not_depend_on_its_batch(images):
    for conditioned in (True, False):
        net = wake(small(conditioned=conditioned)).double()
        x = noisy(images, 1.0).double()
        torch.testing.assert_close(net(x, 1.0)[1:2], net(x[1:2], 1.0), rtol=1e-9, atol=1e-9)


def test_errors_name_the_culprit(images):
    with pytest.raises(UserError, match="without sigma"):
        small()(images)
    with pytest.raises(UserError, match=r"image_size=18 is not divisible by 4.*\[1, 2, 2\]"):
        UNet(image_size=18, ch_mult=[1, 2, 2])
    with pytest.raises(UserError, match="ch_mult is empty"):
        UNet(ch_mult=())
    with pytest.raises(UserError, match=r"\(3, 16, 16\).*\(3, 8, 8\)"):
        small()(images[:, :, :8, :8], 1.0)
    with pytest.raises(UserError, match=r"shape \(3,\) for a batch of 4"):
        small()(images, torch.ones(3))


def test_yaml_lists_build_it():
    parser = ArgumentParser()
    parser.add_class_arguments(UNet, "net")
    config = parser.parse_args(["--net.ch_mult=[1,2]", "--net.attn_resolutions=[8]", "--net.image_size=16"])
    assert parser.instantiate(config).net.image_size == 16


def test_learns_to_predict_noise(emoji):
    images = nn.functional.avg_pool2d(emoji[:8] / 255, 2)
    net = small(conditioned=False)
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(40):
        epsilon = torch.randn(images.shape, generator=generator)
        loss = (net(images + epsilon) - epsilon).square().mean() / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
