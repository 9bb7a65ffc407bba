"""The training options that docs/cli.md lists, through the command line."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from smoothscore.cli import main
from tests.cli.test_commands import FAST, SMALL

LOGGERS = [
    {"class_path": "RunLogger", "init_args": {"save_dir": "runs", "name": "emoji_fast", "version": "options"}},
    {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"project": "p", "name": "seed-0", "offline": True},
        "dict_kwargs": {"group": "cifar10", "tags": ["T5", "k30"]},
    },
    {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "runs"}},
]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_precision_accumulation_rates_and_dashboards(monkeypatch):
    import wandb

    groups = []
    init = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: groups.append(options) or init(**options))
    config = {
        "trainer": {
            "logger": LOGGERS,
            "precision": "bf16-mixed",
            "accumulate_grad_batches": 2,
            "max_steps": 4,
            "val_check_interval": 4,
            "check_val_every_n_epoch": None,
        }
    }
    Path("options.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", str(FAST), *SMALL, "--config", "options.yaml", "--model.init_args.warmup_steps", "3"])
    wandb.finish()
    checkpoint = torch.load("runs/emoji_fast/options/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(value.dtype == torch.float32 for value in checkpoint["state_dict"].values() if value.is_floating_point())
    assert groups[0]["group"] == "cifar10"
    assert groups[0]["tags"] == ["T5", "k30"]
    assert list(Path("runs").rglob("events.out.tfevents.*"))
    header = Path("runs/emoji_fast/options/metrics.csv").read_text().partition("\n")[0]
    assert "memorization/fraction" in header


def fit_compiled(version):
    options = ["--model.init_args.compile", "true", "--trainer.logger.init_args.version", version]
    main(["fit", "--config", str(FAST), *SMALL, "--trainer.max_steps=3", *options])
    return Path("runs/emoji_fast") / version


def check_compiled(monkeypatch):
    """A compiled run logs the losses of a plain one, and its checkpoint opens as any other."""
    torch._dynamo.reset()
    before = torch._dynamo.utils.counters["frames"]["ok"]
    compiled = fit_compiled("compiled")
    assert torch._dynamo.utils.counters["frames"]["ok"] > before
    torch._dynamo.reset()
    main(["fit", "--config", str(FAST), *SMALL, "--trainer.max_steps=3", "--trainer.logger.init_args.version=plain"])
    one, other = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (compiled, Path("runs/emoji_fast/plain"))
    )
    assert one.keys() == other.keys()
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)
    main(["export", str(compiled / "checkpoints" / "last.ckpt"), "--out", "exported"])
    assert json.loads(Path("exported/config.json").read_text())["model"]["init_args"]["compile"] is True


def test_compiled_by_tracing_only(monkeypatch):
    """What torch.compile does before it writes code: the whole network is traced, and called as a graph."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    check_compiled(monkeypatch)


@pytest.mark.slow
def test_compiled(monkeypatch):
    check_compiled(monkeypatch)
