"""A bad loss stops the training, or its update never happens; the batch is written down."""

import json
import math

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from smoothscore.callbacks import EMA, LossGuard
from smoothscore.data import Emoji
from smoothscore.errors import UserError
from smoothscore.modules import NoiseConditioned
from smoothscore.modules.checkpoint import read_checkpoint
from smoothscore.modules.storage import CheckpointFiles
from smoothscore.networks import UNet


class Spoiled(NoiseConditioned):
    """Its loss, or its gradient alone, is multiplied by a factor in some batches."""

    def __init__(self, at=(), factor=math.nan, gradient_only=False):
        super().__init__(UNet(image_size=8, nf=8, ch_mult=(1, 2)), sigma_max=10.0)
        self.at, self.factor, self.gradient_only = at, factor, gradient_only

    @property
    def spoiled(self):
        return self.trainer.fit_loop.epoch_loop.total_batch_idx in self.at

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss * self.factor if self.spoiled and not self.gradient_only else loss

    def on_after_backward(self):
        if self.spoiled and self.gradient_only:
            next(self.parameters()).grad.fill_(self.factor)


def fit(tmp_path, module, guard, steps, *, ckpt=None, every=1, callbacks=(), **options):
    torch.manual_seed(0)
    for part in module.modules():
        if hasattr(part, "reset_parameters"):
            part.reset_parameters()
    saver = ModelCheckpoint(tmp_path / "c", filename="{step}", every_n_train_steps=every, save_top_k=-1)
    trainer = Trainer(
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        default_root_dir=tmp_path, callbacks=[guard, *callbacks, saver], plugins=[CheckpointFiles()], accelerator="cpu",
        **options,
    )  # fmt: skip
    data = Emoji(num_train=64, num_test=4, image_size=8, batch_size=8)
    data.epoch_steps = 1000
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return trainer, data


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def records(tmp_path):
    return [json.loads(path.read_text()) for path in sorted((tmp_path / "bad_batches").glob("*.json"))]


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_stops_before_anything_bad_is_saved(tmp_path, factor):
    with pytest.raises(UserError, match=r"LossGuard: stopped after step .*a loss of (nan|inf|-inf).*after step 3"):
        fit(tmp_path, Spoiled([3], factor), LossGuard(), 10)
    kept = sorted((tmp_path / "c").iterdir())
    assert [path.name for path in kept] == ["step=1.ckpt", "step=2.ckpt", "step=3.ckpt"]
    assert all(value.isfinite().all() for path in kept for value in read_checkpoint(path)["state_dict"].values())


def test_the_batch_is_written_down(tmp_path):
    module = Spoiled([2])
    with pytest.raises(UserError, match="bad_batches"):
        fit(tmp_path, module, LossGuard(), 10, every=100)
    (record,) = [record for record in records(tmp_path) if record["step"] == 2]
    data = Emoji(num_train=64, num_test=4, image_size=8, batch_size=8)
    batches = iter(data.train_dataloader())
    batch = [next(batches) for _ in range(3)][2]
    assert record["rows"] == batch.index.tolist()
    assert record["labels"] == batch.label.tolist()
    assert record["loss"] == "nan"
    assert len(record["sigma"]) == 8
    assert set(record["sigma"]) <= set(module.levels.tolist())


@pytest.mark.parametrize("last", [5, 4])
def test_a_bad_last_loss_is_seen_too(tmp_path, last):
    with pytest.raises(UserError, match="LossGuard"):
        fit(tmp_path, Spoiled([last]), LossGuard(), 6, every=100)


def test_weights_that_are_not_finite_are_not_saved_though_the_loss_was(tmp_path):
    with pytest.raises(UserError, match="weights that are not finite"):
        fit(tmp_path, Spoiled([2], math.inf, gradient_only=True), LossGuard(), 10)
    assert [path.name for path in sorted((tmp_path / "c").iterdir())] == ["step=1.ckpt", "step=2.ckpt"]


@pytest.mark.parametrize(("factor", "stops"), [(1e4, True), (20.0, False)])
def test_an_exploding_loss_is_one_far_above_the_usual(tmp_path, factor, stops):
    def run():
        return fit(tmp_path, Spoiled([30], factor), LossGuard(factor=500.0), 34, every=100)

    if stops:
        with pytest.raises(UserError, match=r"a loss of .* where .* is usual"):
            run()
        assert records(tmp_path)[0]["step"] == 30
    else:
        run()
        assert not records(tmp_path)


class Missing(Spoiled):
    """The batch is seen, and no update is made: what skipping must come to."""

    def optimizer_step(self, epoch, batch_idx, optimizer, closure):
        bad = self.spoiled

        def without_gradient():
            loss = closure()
            if bad:
                optimizer.zero_grad(set_to_none=True)
            return loss

        optimizer.step(without_gradient)


@pytest.mark.parametrize("spoil", [{"factor": math.nan}, {"factor": math.inf, "gradient_only": True}])
def test_a_skipped_update_leaves_weights_and_moments_alone(tmp_path, spoil):
    skipped, expected = Spoiled([2, 5], **spoil), Missing([2, 5], factor=1.0)
    trainer, _ = fit(tmp_path / "a", skipped, LossGuard("skip"), 8, gradient_clip_val=1.0)
    other, _ = fit(tmp_path / "b", expected, LossGuard("off"), 8, gradient_clip_val=1.0)
    assert weights(skipped).isfinite().all()
    assert torch.equal(weights(skipped), weights(expected))
    states = [t.optimizers[0].state_dict()["state"] for t in (trainer, other)]
    assert all(torch.equal(states[0][i]["exp_avg"], states[1][i]["exp_avg"]) for i in states[0])
    if "gradient_only" not in spoil:
        assert [record["step"] for record in records(tmp_path / "a")] == [2, 5]


def test_skipping_changes_nothing_where_nothing_is_bad(tmp_path):
    runs = {}
    for action in ("stop", "skip", "off"):
        runs[action] = Spoiled()
        fit(tmp_path / action, runs[action], LossGuard(action), 4, callbacks=[EMA(0.9)])
    assert torch.equal(weights(runs["stop"]), weights(runs["off"]))
    assert torch.equal(weights(runs["skip"]), weights(runs["off"]))


def test_too_many_skipped_updates_stop_the_training(tmp_path):
    with pytest.raises(UserError, match="4 bad updates in a row"):
        fit(tmp_path, Spoiled(range(3, 99)), LossGuard("skip", max_skipped=3), 20)
    fit(tmp_path, Spoiled(range(3, 99, 2)), LossGuard("skip", max_skipped=1), 20)  # not in a row


def test_one_of_the_accumulated_batches_is_enough(tmp_path):
    module = Spoiled([5])
    fit(tmp_path, module, LossGuard("skip"), 4, accumulate_grad_batches=2, every=100)
    assert weights(module).isfinite().all()
    assert [record["step"] for record in records(tmp_path)] == [2]


def test_accumulated_batches_are_judged_by_their_own_losses(tmp_path):
    class Noted(Spoiled):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            self.losses = [*getattr(self, "losses", []), loss.item()]
            return loss

    module, guard = Noted(), LossGuard()
    fit(tmp_path, module, guard, 2, accumulate_grad_batches=3, every=100)
    assert len(module.losses) == 6
    assert guard.state_dict()["usual"] == pytest.approx(module.losses)


def test_a_resumed_run_knows_what_is_usual(tmp_path):
    fit(tmp_path, Spoiled(), LossGuard("skip"), 25, every=25)
    guard = LossGuard("skip", factor=500.0)
    fit(tmp_path, Spoiled([26], 1e4), guard, 28, ckpt=tmp_path / "c" / "step=25.ckpt", every=100)
    assert [record["step"] for record in records(tmp_path)] == [26]


@pytest.mark.parametrize("factor", [1.0, 0.0, -5.0, math.nan])
def test_bad_factor(factor):
    with pytest.raises(UserError, match="factor"):
        LossGuard(factor=factor)
