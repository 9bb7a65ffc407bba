"""EffectiveNeighbors in training: what the target becomes, local rules, and bad input before training."""

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer

from smoothscore.data import Batch, Emoji
from smoothscore.errors import UserError
from smoothscore.modules import ScoreModule, TemperatureSmoothed
from smoothscore.networks import UNet
from smoothscore.schedules import ClassNeighbors, DensityNeighbors, EffectiveNeighbors
from smoothscore.score import optimal_log_weight
from tests.oracle.effective import temperature_oracle
from tests.oracle.smoothed import smoothed_target_oracle

SIGMA = torch.tensor([0.01, 0.1, 0.3, 0.6, 1.001, 20.0])


def fitted(tmp_path, temperature, k=6, **options):
    data = Emoji(image_size=8, num_train=48, num_test=16, batch_size=16, k=k, cache_dir=str(tmp_path), **options)
    module = TemperatureSmoothed(
        UNet(image_size=8, nf=8, ch_mult=(1, 2), conditioned=False),
        temperature=temperature,
        sigma_collapse=1.0,
        scale="scheduled",
    )
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0)  # fmt: skip
    trainer.fit(module, datamodule=data)
    return module, data


def targets(module, data):
    """Noisy images at SIGMA, their targets and denoising targets."""
    index = torch.arange(len(SIGMA))
    image = data.train.pixels[index].float() / 255
    per_image = SIGMA.view(-1, 1, 1, 1)
    x = image + per_image * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    batch = Batch(image, index, data.train.labels[index])
    return x, module.score_target(batch, x, SIGMA), (image - x) / per_image**2


def expected_targets(data, x, numbers):
    """By brentq on the distances, up to σ_collapse."""
    centers = data.train.pixels[data.table.indices[: len(x)]].float() / 255
    distance_sq = (x[:, None] - centers).double().flatten(2).square().sum(-1)
    log_weight = optimal_log_weight(distance_sq, x[0].numel())
    temperature = torch.tensor([temperature_oracle(*pair) for pair in zip(log_weight, numbers, strict=True)])
    return smoothed_target_oracle(x, centers, SIGMA, temperature, "scheduled")


def check(target, expected, denoising):
    error = (target - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert float(error[:4].max()) < 2e-3
    assert torch.equal(target[4:], denoising[4:])
    assert float((target - denoising)[:4].abs().flatten(1).amax(1).min()) > 1e-2


def test_n_neighbors_speak_below_collapse(tmp_path):
    module, data = fitted(tmp_path, EffectiveNeighbors(2.0))
    x, target, denoising = targets(module, data)
    check(target, expected_targets(data, x, [2.0] * 6), denoising)


def test_one_neighbor_is_the_denoising_target_bit_for_bit(tmp_path):
    module, data = fitted(tmp_path, EffectiveNeighbors(1.0))
    _, target, denoising = targets(module, data)
    assert torch.equal(target, denoising)


def test_levels_where_n_is_one_are_denoised(tmp_path):
    module, data = fitted(tmp_path, EffectiveNeighbors(lambda sigma: torch.where(sigma < 0.2, 3.0, 1.0)))
    x, target, denoising = targets(module, data)
    assert torch.equal(target[2:], denoising[2:])
    expected = expected_targets(data, x, [3.0] * 6)
    torch.testing.assert_close(target[:2].double(), expected[:2], rtol=1e-2, atol=1e-2 * float(expected[1].abs().max()))


def test_n_by_density_and_by_class(tmp_path):
    rule = DensityNeighbors(1.6, power=1.0, fade=2.0)
    module, data = fitted(tmp_path, rule)
    x, target, denoising = targets(module, data)
    distance = data.table.distances[:, -1]
    number = 1 + 0.6 * distance[:6] / distance.median() / (1 + (SIGMA / 2) ** 2)
    check(target, expected_targets(data, x, number.tolist()), denoising)

    labels = data.train.labels
    rule = ClassNeighbors(1.3, by_class={int(labels[0]): 2.5})
    module, data = fitted(tmp_path, rule)
    x, target, denoising = targets(module, data)
    number = torch.where(labels[:6] == labels[0], 2.5, 1.3)
    check(target, expected_targets(data, x, number.tolist()), denoising)


@pytest.mark.parametrize(
    ("temperature", "options", "message"),
    [
        (EffectiveNeighbors(7.0), {}, "n is 7 for noise level 0, where there are 6 neighbors"),
        (EffectiveNeighbors(lambda sigma: 0.5 + sigma), {}, "n is 0.51 for noise level 0"),
        (EffectiveNeighbors(6.0), {"radius": 1.01}, "n is 6 for training image"),
        (ClassNeighbors(1.2, by_class={0: 9.0}), {}, "n is 9 for training image"),
        (ClassNeighbors(1.2, by_class={99: 2.0}), {}, "class 99, but no training image"),
        (DensityNeighbors(2.0, rank=6), {}, "rank is 6"),
    ],
)
def test_too_narrow_a_table_is_named_before_training(tmp_path, temperature, options, message):
    with pytest.raises(UserError, match=message):
        fitted(tmp_path, temperature, **options)


def test_per_center_temperatures_are_another_thing():
    with pytest.raises(UserError, match="per_center"):
        TemperatureSmoothed(UNet(image_size=8, conditioned=False), temperature=EffectiveNeighbors(2.0), per_center=True)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{class_path: smoothscore.schedules.EffectiveNeighbors, init_args: {n: 1.5}}", EffectiveNeighbors(1.5)),
        (
            "{class_path: smoothscore.schedules.EffectiveNeighbors, init_args: {n: 2, fade: 0.5}}",
            EffectiveNeighbors(2, fade=0.5),
        ),
        (
            "{class_path: smoothscore.schedules.DensityNeighbors, init_args: {n: 1.5, power: 1.0}}",
            DensityNeighbors(1.5, power=1.0),
        ),
        (
            "{class_path: smoothscore.schedules.ClassNeighbors, init_args: {n: 1.5, by_class: {3: 2.0}}}",
            ClassNeighbors(1.5, by_class={3: 2.0}),
        ),
    ],
)
def test_configured_by_class_path(text, rule):
    options = {
        "network": {"class_path": "smoothscore.networks.UNet", "init_args": {"image_size": 8, "conditioned": False}},
        "temperature": yaml.safe_load(text),
    }
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScoreModule, "model")
    config = parser.parse_object({"model": {"class_path": "TemperatureSmoothed", "init_args": options}})
    got = parser.instantiate(config).model.temperature
    assert type(got) is type(rule)
    assert vars(got) == vars(rule)
