"""Samplers named by class_path on the Generation callback: trained with, and predicted with."""

from pathlib import Path

import pytest

from smoothscore.cli import main
from smoothscore.data.samples import SampleSet

FAST = Path(__file__).parents[2] / "configs" / "experiment" / "emoji_fast.yaml"
BRIEF = ["--trainer.enable_progress_bar=false", "--trainer.max_steps=2", "--data.init_args.epoch_steps=2"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))


def overlay(sampler):
    """The fast experiment with another sampler, as a user writes it: in a file of its own."""
    path = Path("sampler.yaml")
    path.write_text(
        "trainer:\n  callbacks:\n    - class_path: Generation\n      init_args:\n        num_samples: 4\n"
        f"        sampler: {sampler}\n"
    )
    return path


@pytest.mark.parametrize(
    "sampler",
    [
        "{class_path: DPMSolver, init_args: {sigmas: 6}}",
        "{class_path: GradientAscent, init_args: {max_steps: 5, step: backtracking, "
        "project: {class_path: smoothscore.samplers.Box}}}",
    ],
    ids=["DPMSolver", "GradientAscent"],
)
@pytest.mark.filterwarnings("ignore:DPMSolver steps by its schedule:UserWarning")  # the fast experiment is blind
def test_a_training_draws_with_it(sampler):
    main(["fit", "--config", str(FAST), "--config", str(overlay(sampler)), "--trainer.fast_dev_run=1", BRIEF[0]])


def test_predict_draws_with_no_search():
    main(["fit", "--config", str(FAST), *BRIEF])
    run = Path("runs/emoji_fast/version_0")
    sampler = "{class_path: ActualNoise, init_args: {steps: 7, noise: score, churn: 0.5, schedule_until: 2.0}}"
    checkpoint = f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"
    main(["predict", "--config", str(FAST), "--config", str(overlay(sampler)), *BRIEF[:2], checkpoint])
    samples = SampleSet.load(Path("runs/emoji_fast/version_1/samples.npz"))
    assert samples.nfe == 7
    assert samples.images.shape == (4, 3, 8, 8)
    assert samples.images.isfinite().all()
