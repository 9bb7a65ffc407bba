import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from smoothscore.callbacks import EMA
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned
from smoothscore.modules.base import adamw
from smoothscore.networks import UNet


class History(Callback):
    """The raw weights after each optimizer step, and the weights seen in validation."""

    def __init__(self):
        self.raw, self.validated = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.raw.append(flat(pl_module))

    def on_validation_epoch_end(self, trainer, pl_module):
        self.validated.append(flat(pl_module))


def flat(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()]).clone()


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)  # without a state that a second fit would lose


def fit(tmp_path, steps, *, ckpt=None, decay=0.9, others=(), callbacks=(), optimizer=adamw, **options):
    torch.manual_seed(0)
    module = NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)), optimizer=optimizer)
    ema = EMA(decay, others)
    trainer = Trainer(
        max_steps=steps,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=tmp_path,
        callbacks=[ema, *callbacks],
        **({"enable_checkpointing": bool([c for c in callbacks if isinstance(c, ModelCheckpoint)])} | options),
    )
    data = Emoji(num_train=32, num_test=16, image_size=8, batch_size=16)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return module, ema, trainer


def averaged(history, decay):
    """The recursion, in float64."""
    torch.manual_seed(0)
    average = flat(NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)))).double()
    for n, weights in enumerate(history, start=1):
        rate = min(decay, (1 + n) / (10 + n))
        average = rate * average + (1 - rate) * weights.double()
    return average


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.9])
def test_average_follows_the_recursion_and_fit_ends_with_it(tmp_path, decay):
    history = History()
    module, _, _ = fit(tmp_path, 6, decay=decay, callbacks=[history])
    assert torch.allclose(flat(module).double(), averaged(history.raw, decay), atol=1e-7)
    assert not torch.allclose(flat(module), history.raw[-1]) or decay == 0


def test_validation_sees_the_average_and_training_goes_on_with_the_raw_weights(tmp_path):
    history, plain = History(), History()
    fit(tmp_path, 6, callbacks=[history])
    fit(tmp_path, 6, callbacks=[plain], limit_val_batches=0)
    assert len(history.validated) == 3  # two steps per epoch
    for epoch, seen in enumerate(history.validated):
        assert torch.allclose(seen.double(), averaged(history.raw[: 2 * epoch + 2], 0.9), atol=1e-7)
    assert all(torch.equal(a, b) for a, b in zip(history.raw, plain.raw, strict=True))


def test_accumulated_batches_are_one_update(tmp_path):
    _, ema, _ = fit(tmp_path, 3, accumulate_grad_batches=2)
    assert ema.num_updates == 3


@pytest.mark.parametrize("stop", [2, 3])  # at the end of an epoch, and inside one
@pytest.mark.parametrize("saved", ["at a step", "after the training"])
def test_resumed_run_equals_a_straight_one_bit_for_bit(tmp_path, stop, saved):
    straight, straight_ema, straight_trainer = fit(tmp_path / "a", 6)
    saver = ModelCheckpoint(tmp_path / "b", filename="stop", every_n_train_steps=stop, save_top_k=-1)
    _, _, trainer = fit(tmp_path / "b", stop, callbacks=[saver])
    if saved == "after the training":
        trainer.save_checkpoint(tmp_path / "b" / "stop.ckpt")
    resumed, resumed_ema, resumed_trainer = fit(tmp_path / "b", 6, ckpt=tmp_path / "b" / "stop.ckpt")
    assert torch.equal(flat(resumed), flat(straight))
    assert torch.equal(flat_raw(resumed_ema), flat_raw(straight_ema))
    assert resumed_ema.num_updates == straight_ema.num_updates == 6
    one, other = (t.optimizers[0].state_dict()["state"] for t in (straight_trainer, resumed_trainer))
    assert all(torch.equal(one[i][key], other[i][key]) for i in one for key in ("exp_avg", "exp_avg_sq", "step"))


def flat_raw(ema):
    return torch.cat([value.flatten() for value in ema._raw.values()])


def test_checkpoint_holds_raw_weights_and_average_even_after_fit(tmp_path):
    history = History()
    module, _, trainer = fit(tmp_path, 4, callbacks=[history])
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    checkpoint = torch.load(tmp_path / "after.ckpt", weights_only=True)
    raw = torch.cat([checkpoint["state_dict"][name].flatten() for name, _ in module.named_parameters()])
    assert torch.equal(raw, history.raw[-1])
    state = next(value for key, value in checkpoint["callbacks"].items() if key.startswith("EMA"))
    assert torch.equal(
        torch.cat([state["average"][name].flatten() for name, _ in module.named_parameters()]), flat(module)
    )


def test_another_fit_goes_on_with_the_raw_weights(tmp_path):
    straight, _, _ = fit(tmp_path, 6, optimizer=sgd)
    module, _, trainer = fit(tmp_path, 4, optimizer=sgd)
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(module, datamodule=Emoji(num_train=32, num_test=16, image_size=8, batch_size=16))
    assert torch.equal(flat(module), flat(straight))


def test_validate_alone_uses_the_average_of_the_checkpoint(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=4)
    history = History()
    fit(tmp_path, 4, callbacks=[saver, history])
    seen = History()
    module = NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)))
    trainer = Trainer(logger=False, enable_progress_bar=False, callbacks=[EMA(0.9), seen])
    data = Emoji(num_train=32, num_test=16, image_size=8, batch_size=16)
    trainer.validate(module, datamodule=data, ckpt_path=tmp_path / "stop.ckpt", verbose=False)
    assert torch.allclose(seen.validated[0].double(), averaged(history.raw, 0.9), atol=1e-7)


def test_average_of_another_network_is_refused(tmp_path):
    ema = EMA(0.9)
    ema.load_state_dict({"num_updates": 3, "decay": 0.9, "average": {"network.other": torch.zeros(3)}, "others": {}})
    with pytest.raises(UserError, match=r"network\.other"):
        ema.on_fit_start(Trainer(logger=False, enable_checkpointing=False), NoiseConditioned(UNet(image_size=8)))


def test_several_rates_are_averaged_at_once_and_each_can_be_validated(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=4)
    history = History()
    module, ema, _ = fit(tmp_path, 4, decay=0.9, others=[0.15, 0.5], callbacks=[saver, history])
    assert torch.allclose(flat(module).double(), averaged(history.raw, 0.9), atol=1e-7)
    data = Emoji(num_train=32, num_test=16, image_size=8, batch_size=16)
    for decay in (0.9, 0.5, 0.15):
        seen = History()
        trainer = Trainer(logger=False, enable_progress_bar=False, callbacks=[EMA(decay), seen])
        module = NoiseConditioned(UNet(image_size=8, nf=8, ch_mult=(1, 2)))
        trainer.validate(module, datamodule=data, ckpt_path=tmp_path / "stop.ckpt", verbose=False)
        assert torch.allclose(seen.validated[0].double(), averaged(history.raw, decay), atol=1e-7)
    with pytest.raises(UserError, match=r"0\.9, 0\.15, 0\.5, but not of 0\.99"):
        EMA(0.99).load_state_dict(ema.state_dict())


def test_several_rates_resume_bit_for_bit(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="stop", every_n_train_steps=3)
    fit(tmp_path, 3, others=[0.5], callbacks=[saver])
    _, straight, _ = fit(tmp_path, 6, others=[0.5])
    _, resumed, _ = fit(tmp_path, 6, others=[0.5], ckpt=tmp_path / "stop.ckpt")
    for rate in (0.9, 0.5):
        one, other = straight._averages[rate], resumed._averages[rate]
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_rate_named_twice():
    with pytest.raises(UserError, match="twice"):
        EMA(0.9, others=[0.9])


@pytest.mark.parametrize("decay", [-0.1, 1.0, 1.5])
def test_bad_decay(decay):
    with pytest.raises(UserError, match="decay"):
        EMA(decay)
