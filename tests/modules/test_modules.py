import pytest
import torch
from lightning import Trainer
from torch import nn

from smoothscore.data import Batch, Emoji
from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned, NoiseUnconditioned, ScoreModule, TemperatureSmoothed
from smoothscore.modules.base import mix_seed
from smoothscore.networks import UNet
from smoothscore.schedules import CollapseTemperature, DimTemperature
from tests.oracle.smoothed import smoothed_target_oracle


def emoji_data(**options):
    return Emoji(**({"num_train": 32, "num_test": 16, "image_size": 8, "batch_size": 16} | options))


def unet(conditioned):
    return UNet(image_size=8, nf=8, ch_mult=(1, 2), conditioned=conditioned)


def trainer(tmp_path, **options):
    defaults = {"max_steps": 3, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return Trainer(**(defaults | {"default_root_dir": tmp_path, "enable_checkpointing": False} | options))


class Recorder(ScoreModule):
    """Keeps what `score_target` saw."""

    def score_target(self, batch, x, sigma):
        self.seen = [*getattr(self, "seen", []), (batch, x, sigma)]
        return super().score_target(batch, x, sigma)


def test_loss_is_the_weighted_score_matching_loss():
    module = NoiseConditioned(unet(True))
    nn.init.normal_(module.network.conv_out.weight)
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, 8, 8, generator=generator)
    sigma, noise = torch.tensor([0.02, 0.5, 4.0, 30.0]), torch.randn(image.shape, generator=generator)
    loss = module.loss(Batch(image, torch.arange(4), torch.zeros(4)), sigma, noise)
    x = (image + sigma.view(-1, 1, 1, 1) * noise).double()
    score = module.score(x.float(), sigma).double()
    expected = (
        sigma.double() ** 2
        / 2
        * (score - (image - x) / sigma.view(-1, 1, 1, 1).double() ** 2).square().flatten(1).sum(1)
    )
    assert torch.allclose(loss.double(), expected / 192, rtol=1e-3)


def test_noise_is_a_function_of_seed_step_and_rank(tmp_path):
    def seen(seed, steps):
        module = Recorder(unet(True), seed=seed)
        trainer(tmp_path, max_steps=steps).fit(module, datamodule=emoji_data())
        return [(x, sigma) for _, x, sigma in module.seen]

    torch.manual_seed(5)
    one = seen(1, 3)
    torch.manual_seed(6)
    again, other = seen(1, 3), seen(2, 3)
    assert all(torch.equal(a, b) for pair in zip(one, again, strict=True) for a, b in zip(*pair, strict=True))
    assert not torch.equal(one[0][1], other[0][1])
    assert not torch.equal(one[0][1], one[1][1])
    assert len({mix_seed(a, b, c) for a in range(5) for b in range(50) for c in range(3)}) == 750


@pytest.mark.parametrize("scale", ["optimal", "scheduled"])
@pytest.mark.parametrize(("per_center", "radius"), [(False, None), (True, None), (False, 1.1)])
def test_smoothed_target_below_collapse_and_denoising_above(tmp_path, scale, per_center, radius):
    data = emoji_data(k=6, radius=radius)
    module = TemperatureSmoothed(unet(False), sigma_collapse=1.0, scale=scale, per_center=per_center)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(8)
    image = data.train.pixels[index].float() / 255
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 1.001, 2.0, 5.0, 20.0])
    x = image + sigma.view(-1, 1, 1, 1) * torch.randn(image.shape, generator=generator)
    target = module.score_target(Batch(image, index, index), x, sigma)
    centers = data.train.pixels[data.table.indices[index]].float() / 255
    temperature = CollapseTemperature(1.0)
    expected = smoothed_target_oracle(
        x, centers, sigma, temperature if per_center else temperature(sigma.double()), scale, data.neighbors.mask(index)
    )
    denoising = (image - x) / sigma.view(-1, 1, 1, 1) ** 2
    expected[4:] = denoising[4:].double()
    error = (target - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < 1e-3
    assert (target[:3] - denoising[:3]).abs().max() > 0.1  # the target is not the denoising one


def test_drawn_levels_are_split_without_looking_at_the_device(tmp_path):
    module = TemperatureSmoothed(unet(False), sigma_collapse=0.7)
    sigma = torch.tensor([0.1, 0.9, 0.5, 0.7])
    assert module.rows_at_most(sigma, 0.7).tolist() == [0, 2, 3]
    module._drawn = (sigma, torch.tensor([0.9, 0.1, 0.9, 0.9]))  # the host's copy is what counts for drawn levels
    assert module.rows_at_most(sigma, 0.7).tolist() == [1]
    assert module.rows_at_most(sigma.clone(), 0.7).tolist() == [0, 2, 3]


def test_flip_mirrors_image_and_neighbors_together(tmp_path):
    data = emoji_data(k=4, flip=True)
    module = TemperatureSmoothed(unet(False), sigma_collapse=50.0)
    trainer(tmp_path, max_steps=1).fit(module, datamodule=data)
    nn.init.normal_(module.network.conv_out.weight)  # a new network says 0, which has no left and right
    index = torch.arange(4)
    sigma, noise = torch.full((4,), 0.3), torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mirrored = torch.tensor([True, False, True, False])
    loss = module.loss(Batch(data.train.pixels[index], index, index), sigma, noise, mirrored)
    for i in range(4):
        flip = (lambda t: t.flip(-1)) if mirrored[i] else (lambda t: t)
        x = flip(data.train.pixels[i].float() / 255 + 0.3 * noise[i])[None]
        centers = flip(data.train.pixels[data.table.indices[i]].float() / 255)[None]
        target = smoothed_target_oracle(x, centers, sigma[:1], 50 / 0.3, "optimal")
        expected = (module.network(x, sigma[:1]).double() + 0.3 * target).square().mean() / 2
        assert loss[i].item() == pytest.approx(expected.item(), rel=1e-3)


def test_validation_loss_does_not_depend_on_the_batches(tmp_path):
    def val_loss(batch_size):
        torch.manual_seed(0)
        module = NoiseUnconditioned(unet(False))
        run = trainer(tmp_path)
        run.validate(module, datamodule=emoji_data(batch_size=batch_size), verbose=False)
        return run.callback_metrics["val/loss"].item()

    assert val_loss(16) == pytest.approx(val_loss(5), rel=1e-5)


@pytest.mark.parametrize(("steps", "share"), [(1, 1 / 4), (2, 1 / 4 + 2 / 4)])
def test_warmup_and_clipping(tmp_path, steps, share):
    module = NoiseConditioned(unet(True), optimizer=lambda p: torch.optim.SGD(p, lr=1.0), warmup_steps=4)
    run = trainer(tmp_path, max_steps=steps, gradient_clip_val=1e-3)
    before = [p.detach().clone() for p in module.parameters()]
    run.fit(module, datamodule=emoji_data())
    moved = torch.cat([(p - q).flatten() for p, q in zip(module.parameters(), before, strict=True)]).norm()
    assert 0.9 * share <= moved / 1e-3 <= 1.001 * share  # below where the gradients of two steps differ


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoiseConditioned(unet(False)), "conditioned to true"),
        (lambda: NoiseUnconditioned(unet(True)), "conditioned to false"),
        (lambda: NoiseConditioned(unet(True), sigma_min=0.0), "sigma_min is 0"),
        (lambda: NoiseConditioned(unet(True), sigma_min=2.0, sigma_max=1.0), "sigma_min = 2"),
        (lambda: TemperatureSmoothed(unet(False), sigma_collapse=0.0), "sigma_collapse is 0"),
        (lambda: TemperatureSmoothed(unet(False), scale="other"), "other"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_smoothing_without_neighbors_is_an_error_before_training(tmp_path):
    with pytest.raises(UserError, match=r"data\.init_args\.k"):
        trainer(tmp_path).fit(TemperatureSmoothed(unet(False)), datamodule=emoji_data())


def test_network_for_other_images_is_an_error_before_training(tmp_path):
    with pytest.raises(UserError, match="size 8 with 3 channels"):
        trainer(tmp_path).fit(NoiseConditioned(unet(True)), datamodule=emoji_data(image_size=16))


def test_temperature_learns_the_dimension_of_the_images(tmp_path):
    module = TemperatureSmoothed(unet(False), temperature=DimTemperature())
    trainer(tmp_path, max_steps=1).fit(module, datamodule=emoji_data(k=3))
    assert module.temperature == DimTemperature(192)


def test_accumulated_batches_draw_different_noise(tmp_path):
    module = Recorder(unet(True))
    trainer(tmp_path, max_steps=1, accumulate_grad_batches=2).fit(module, datamodule=emoji_data())
    (_, first, sigma_first), (_, second, sigma_second) = module.seen
    assert not torch.equal(sigma_first, sigma_second)
    assert not torch.equal(first, second)
