"""NCSN++ against a plain form of it, and what a network has to promise."""

import math

import pytest
import torch

from smoothscore.errors import UserError
from smoothscore.networks import NCSNpp, import_score_sde
from smoothscore.networks.fir import FirConv, FirDown, FirUp
from tests.oracle.ncsnpp import PlainNCSNpp, fir, upfirdn

SMALL = {"image_size": 16, "nf": 16, "ch_mult": (1, 2, 2), "num_res_blocks": 2, "attn_resolutions": (8,)}
FAMILIES = {
    "cifar10_continuous": {"embedding": "fourier", "progressive_input": "residual"},
    "cifar10_discrete": {"embedding": "positional", "progressive_input": "residual"},
    "celebahq": {"embedding": "fourier", "progressive": "output_skip", "progressive_input": "input_skip"},
    "plain": {"embedding": "fourier", "progressive_input": "none"},
}


def randomized(module):
    """Every weight away from its start, so that no part of the output is zero."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator) / parameter[0].numel() ** 0.5)
    return module


def save(peer, path, *, average=0.5):
    trained = [p.detach() * average for p in peer.parameters() if p.requires_grad]
    model = {f"module.{name}": value for name, value in peer.state_dict().items()}
    torch.save({"model": model, "ema": {"decay": 0.999, "shadow_params": trained}, "step": 7, "optimizer": {}}, path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("ema", [False, True])
def test_imported_checkpoint_gives_the_score_of_the_plain_network(tmp_path, family, ema):
    torch.manual_seed(0)
    peer = randomized(PlainNCSNpp(**SMALL, **FAMILIES[family])).eval()
    save(peer, tmp_path / "checkpoint_1.pth")
    network = import_score_sde(tmp_path / "checkpoint_1.pth", NCSNpp(**SMALL, **FAMILIES[family]), ema=ema).eval()
    if ema:
        with torch.no_grad():
            for parameter in peer.parameters():
                if parameter.requires_grad:
                    parameter.mul_(0.5)
    level = torch.tensor([0, 400, 999])
    sigma = peer.sigmas[level].float()
    x = torch.rand(3, 3, 16, 16) + sigma[:, None, None, None] * torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        score = peer(x, sigma if family != "cifar10_discrete" else level)
        ours = -network(x, sigma) / sigma[:, None, None, None]
    assert score.abs().amax(dim=(1, 2, 3)).min() > 1e-4
    for one, other in zip(ours, score, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_equal_those_of_the_plain_network(tmp_path, family):
    peer = randomized(PlainNCSNpp(**SMALL, **FAMILIES[family])).eval()
    save(peer, tmp_path / "c.pth")
    network = import_score_sde(tmp_path / "c.pth", NCSNpp(**SMALL, **FAMILIES[family]), ema=False).eval()
    level = torch.tensor([300])
    sigma = peer.sigmas[level].float()
    inputs = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_() for _ in range(2)]
    peer(inputs[0], sigma if family != "cifar10_discrete" else level).square().sum().backward()
    (network(inputs[1], sigma) / sigma).square().sum().backward()
    assert torch.allclose(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-4 * float(inputs[0].grad.abs().max()))
    total = [sum(float(p.grad.double().square().sum()) for p in m.parameters() if p.requires_grad)
             for m in (peer, network)]  # fmt: skip
    assert total[0] == pytest.approx(total[1], rel=1e-4)


def test_resizing_equals_padding_and_slicing():
    x = torch.randn(2, 5, 8, 8)
    assert torch.allclose(FirDown()(x), upfirdn(x, fir(), down=2, pad=(1, 1)), atol=1e-6)
    assert torch.allclose(FirUp()(x), upfirdn(x, fir(4.0), up=2, pad=(2, 1)), atol=1e-6)
    layer = FirConv(5, 7)
    expected = torch.nn.functional.conv2d(upfirdn(x, fir(), pad=(2, 2)), layer.conv.weight, layer.conv.bias, stride=2)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert FirUp()(torch.ones(1, 1, 8, 8))[..., 2:-2, 2:-2].allclose(torch.ones(1, 1, 12, 12))


def test_paper_networks_have_the_size_of_their_checkpoints():
    # 61.8 M in the continuous CIFAR-10 checkpoint of score_sde: counted from its configuration
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in network.parameters())
            for name, network in (
                ("cifar10", NCSNpp()),
                ("blind", NCSNpp(conditioned=False)),
                ("peer", PlainNCSNpp(32, 128, (1, 2, 2, 2), 4, (16,))),
            )
        }
    assert sizes["cifar10"] == sizes["peer"] - 128  # the random waves are no parameters of ours
    assert sizes["blind"] < sizes["cifar10"]


def test_blind_network_has_no_part_for_sigma_and_ignores_it():
    network = randomized(NCSNpp(**SMALL, conditioned=False)).eval()
    assert network.embedding is None
    assert not any("embed" in name for name, _ in network.named_parameters())
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(x, 0.1), network(x, torch.tensor([5.0, 7.0])))
        assert torch.equal(network(x), network(x, 0.1))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("conditioned", [True, False])
def test_every_parameter_is_used_from_the_first_step_on(family, conditioned):
    network = NCSNpp(**SMALL, **FAMILIES[family], conditioned=conditioned, dropout=0.0)
    x = torch.randn(2, 3, 16, 16)
    (network(x, 1.0) - x).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())


def test_starts_at_zero_and_with_the_variance_of_its_source():
    torch.manual_seed(0)
    network = NCSNpp(**SMALL)
    with torch.no_grad():
        assert network(torch.randn(2, 3, 16, 16), 1.0).abs().max() < 1e-4
    weight = network.conv_in.weight
    fans = (3 * 9 + 16 * 9) / 2
    assert float(weight.var()) == pytest.approx(1 / fans, rel=0.15)
    attention = next(m for m in network.modules() if type(m).__name__ == "Attention")
    channels = attention.qkv.in_channels
    assert float(attention.qkv.weight.var()) == pytest.approx(0.1 / channels, rel=0.1)
    assert float(attention.out.weight.abs().max()) < 1e-4


def test_checkpointed_activations_change_nothing():
    network = randomized(NCSNpp(**SMALL, dropout=0.0))
    x = torch.randn(2, 3, 16, 16)
    gradients = []
    for network.checkpoint_activations in (False, True):
        network.zero_grad()
        network(x, 1.0).square().mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-8)


def test_runs_under_autocast_channels_last_and_compile():
    network = randomized(NCSNpp(**SMALL)).eval()
    x = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        plain = network(x, 1.0)
        last = network.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last), 1.0)
        assert torch.allclose(plain, last, atol=1e-5)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (network(x, 1.0).float() - plain).norm() < 0.05 * plain.norm()
        # The graph is whole: one break would be an error.
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x, torch.ones(2)), plain, atol=1e-5)


def test_positional_embedding_takes_the_nearest_level():
    network = NCSNpp(**SMALL, embedding="positional", sigma_min=0.01, sigma_max=50.0, num_levels=1000)
    waves = network.embedding.waves
    levels = torch.logspace(math.log10(50), -2, 1000, dtype=torch.float64).float()
    number = torch.arange(1000)
    frequency = torch.exp(torch.arange(8) * (-math.log(10000) / 7))
    angle = number[:, None] * frequency
    assert torch.allclose(waves(levels), torch.cat([angle.sin(), angle.cos()], 1), atol=1e-4)
    assert torch.equal(waves(levels[5:6] * 1.003), waves(levels[5:6]))
    assert torch.equal(waves(torch.tensor([80.0])), waves(levels[:1]))


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"image_size": 30}, "not divisible by 4"),
        ({"embedding": "gaussian"}, "embedding"),
        ({"progressive": "residual"}, "progressive"),
        ({"embedding": "positional", "sigma_min": 0.0}, "sigma_min is 0"),
    ],
)
def test_bad_options_are_named(options, culprit):
    with pytest.raises(UserError, match=culprit):
        NCSNpp(**{**SMALL, **options})


def test_conditioned_network_wants_sigma_and_its_own_image_shape():
    network = NCSNpp(**SMALL)
    with pytest.raises(UserError, match="without sigma"):
        network(torch.rand(1, 3, 16, 16))
    with pytest.raises(UserError, match=r"\(3, 8, 8\)"):
        network(torch.rand(1, 3, 8, 8), 1.0)


def test_checkpoint_that_does_not_fit_is_refused_with_its_names(tmp_path):
    path = tmp_path / "checkpoint_1.pth"
    peer = PlainNCSNpp(**SMALL)
    save(peer, path)
    with pytest.raises(UserError, match="Left over"):
        import_score_sde(path, NCSNpp(**SMALL, conditioned=False))
    with pytest.raises(UserError, match="Other shapes"):
        import_score_sde(path, NCSNpp(**{**SMALL, "nf": 8}))
    content = torch.load(path)
    del content["model"]["module.all_modules.3.bias"]
    torch.save(content, path)
    with pytest.raises(UserError, match=r"Missing there: all_modules\.3\.bias"):
        import_score_sde(path, NCSNpp(**SMALL), ema=False)
    with pytest.raises(UserError, match="averaged weights"):
        import_score_sde(path, NCSNpp(**SMALL))
    torch.save({"state_dict": {}}, path)
    with pytest.raises(UserError, match="no checkpoint of score_sde"):
        import_score_sde(path, NCSNpp(**SMALL))
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="cannot be read"):
        import_score_sde(path, NCSNpp(**SMALL))
    with pytest.raises(UserError, match="does not exist"):
        import_score_sde(tmp_path / "none.pth", NCSNpp(**SMALL))
