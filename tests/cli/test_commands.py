"""The command line as a user meets it: shipped configs, a user's own class, resume, and errors in one paragraph."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from smoothscore.cli import COMMANDS, main, usage
from smoothscore.data.samples import SampleSet

ROOT = Path(__file__).parents[2]
FAST = ROOT / "configs" / "experiment" / "emoji_fast.yaml"
EXPERIMENTS = sorted(path for path in (ROOT / "configs" / "experiment").rglob("*.yaml") if "paper" not in path.parts)
SMALL = [
    "--trainer.max_epochs=9",
    "--trainer.max_steps=4",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--data.init_args.epoch_steps=2",
]


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(tmp_path / "cache"))


def rows(folder):
    with (Path(folder) / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def error_of(capsys, *args):
    """Exit status and the last paragraph of standard error."""
    with pytest.raises(SystemExit) as exit_:
        main([str(arg) for arg in args])
    return exit_.value.code, capsys.readouterr().err


def test_help_lists_every_command(capsys):
    main(["--help"])
    printed = capsys.readouterr().out
    assert printed.strip() == usage()
    assert all(f"\n  {name} " in printed for name in COMMANDS)


def test_help_imports_nothing_heavy():
    code = "import sys; from smoothscore.cli import main; main(['--help']); print(sorted(sys.modules))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'torch'" not in printed
    assert "'lightning'" not in printed


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: str(path.relative_to(ROOT / "configs" / "experiment")))
def test_every_shipped_experiment_runs(path):
    main(["fit", "--config", str(path), "--trainer.fast_dev_run=1", "--trainer.enable_progress_bar=false"])


def test_fit_leaves_a_whole_run_and_logs_every_measure():
    main(["fit", "--config", str(FAST), *SMALL])
    run = Path("runs/emoji_fast/version_0")
    last = {key: value for row in rows(run) for key, value in row.items() if value}
    assert 0 <= float(last["memorization/fraction"]) <= 1
    assert 0 <= float(last["memorization/low"]) <= float(last["memorization/high"]) <= 1
    assert float(last["frechet/train_pixels"]) > 0
    assert float(last["frechet/test_pixels"]) > 0
    assert float(last["expansion/network_0.5"]) > 0
    assert float(last["generation/nfe"]) == 40  # 20 levels, a corrector and a predictor each
    assert float(last["train/step_ms"]) > 0
    samples = SampleSet.load(run / "samples.npz")
    assert samples.images.shape == (32, 3, 8, 8)
    assert samples.step == 4
    assert len(list((run / "grids").glob("*.png"))) == 2
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert "hyper_parameters" not in checkpoint
    assert yaml.safe_load(checkpoint["smoothscore"]["config"])["model"]["class_path"].endswith("TemperatureSmoothed")


def test_stopped_and_resumed_run_equals_a_straight_one():
    logger = "--trainer.logger.init_args.version"
    main(["fit", "--config", str(FAST), *SMALL, logger, "straight", "--trainer.max_steps=6"])
    main(["fit", "--config", str(FAST), *SMALL, logger, "stopped", "--trainer.max_steps=4"])
    main(["fit", "--config", str(FAST), *SMALL, logger, "stopped", "--trainer.max_steps=6", "--ckpt_path=last"])
    one, other = (Path("runs/emoji_fast") / name for name in ("straight", "stopped"))
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (one, other)]
    assert [state["global_step"] for state in states] == [6, 6]
    for name, value in states[0]["state_dict"].items():
        assert torch.equal(value, states[1]["state_dict"][name])
    averages = [next(v for k, v in state["callbacks"].items() if k.startswith("EMA")) for state in states]
    assert averages[0]["num_updates"] == averages[1]["num_updates"] == 6
    assert all(torch.equal(value, averages[1]["average"][name]) for name, value in averages[0]["average"].items())
    moments = [state["optimizer_states"][0]["state"] for state in states]
    assert all(torch.equal(moments[0][i]["exp_avg_sq"], moments[1][i]["exp_avg_sq"]) for i in moments[0])
    assert torch.equal(SampleSet.load(one / "samples.npz").images, SampleSet.load(other / "samples.npz").images)
    # Nothing of the first part is lost: its configuration and its rows are still there.
    assert (other / "config.1.yaml").is_file()
    validated = [int(row["step"]) for row in rows(other) if row["memorization/fraction"]]
    assert validated == sorted(validated)
    assert len(validated) == 3


def test_validate_test_and_predict_a_checkpoint():
    main(["fit", "--config", str(FAST), *SMALL])
    run = Path("runs/emoji_fast/version_0")
    trained = SampleSet.load(run / "samples.npz")
    logged = rows(run)[-1]["memorization/mean_ratio"]
    for command in ("validate", "test", "predict"):
        main([command, "--config", str(FAST), "--ckpt_path", str(run / "checkpoints" / "last.ckpt"),
              "--trainer.logger.init_args.version", command, "--trainer.enable_progress_bar=false"])  # fmt: skip
        again = Path("runs/emoji_fast") / command
        # The same average weights, the same seeds: the same images.
        assert torch.allclose(SampleSet.load(again / "samples.npz").images, trained.images, atol=1e-5)
        if command != "predict":
            assert float(rows(again)[-1]["memorization/mean_ratio"]) == pytest.approx(float(logged), rel=1e-4)


MINE = """
from smoothscore.modules import TemperatureSmoothed


class PlainMean(TemperatureSmoothed):
    def score_target(self, batch, x, sigma):
        target = super().score_target(batch, x, sigma)
        low = self.rows_at_most(sigma, self.sigma_collapse)
        mean = self.neighbors.images(batch.index[low]).mean(1)
        target[low] = (mean - x[low]) / sigma[low].view(-1, 1, 1, 1) ** 2
        print("MINE WAS ASKED", len(low) > 0)
        return target
"""


def test_a_users_own_scheme_runs_from_the_console_script(tmp_path):
    assert MINE.count("\n") < 15 + 2
    (tmp_path / "mine.py").write_text(MINE)
    script = Path(sys.executable).with_name("smoothscore")
    command = [script, "fit", "--config", FAST, "--model", "mine.PlainMean", "--trainer.fast_dev_run=2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("MINE WAS ASKED True") == 2


def test_wandb_config_keeps_scalars_grids_and_configuration_offline():
    shipped = yaml.safe_load((ROOT / "configs/trainer/wandb.yaml").read_text())["logger"]
    Path("loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": shipped}}))
    script = Path(sys.executable).with_name("smoothscore")  # W&B keeps the folder of its first run in a process
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    command = [script, "fit", "--config", FAST, "--config", "loggers.yaml", *SMALL]
    subprocess.run(command, check=True, env=clean | {"WANDB_MODE": "offline"})
    files = [str(path) for path in Path("runs").rglob("*") if "wandb" in str(path)]
    assert any(path.endswith(".wandb") for path in files)
    assert any("generation/grid" in path and path.endswith(".png") for path in files)
    stored = next(Path("runs").rglob("*.wandb")).read_bytes()
    assert b"memorization/fraction" in stored
    assert b"sigma_collapse" in stored


def test_neighbors_are_built_saved_inspected_and_drawn(capsys):
    main(
        [
            "neighbors",
            "build",
            "--data=Emoji",
            "--data.k=4",
            "--data.num_train=40",
            "--data.batch_size=8",
            "--out=table",
            "--picture=n.png",
        ]
    )
    built = capsys.readouterr().out
    assert "40 images, 4 neighbors each" in built
    assert Path("n.png").stat().st_size > 1000
    main(["neighbors", "inspect", "table"])
    assert capsys.readouterr().out.split("table: ")[0].strip() == built.split("table: ")[0].strip()


def damaged_checkpoint():
    Path("bad.ckpt").write_bytes(b"PK\x03\x04 not a checkpoint")
    return ["fit", "--config", FAST, "--ckpt_path=bad.ckpt"]


def truncated_checkpoint():
    main(["fit", "--config", str(FAST), *SMALL])
    whole = Path("runs/emoji_fast/version_0/checkpoints/last.ckpt").read_bytes()
    Path("cut.ckpt").write_bytes(whole[: len(whole) // 2])
    return ["validate", "--config", FAST, "--ckpt_path=cut.ckpt"]


def damaged_cache():
    main(["fit", "--config", str(FAST), *SMALL])
    path = next(Path("cache").rglob("*indices*"))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    return ["fit", "--config", FAST, *SMALL]


def nan_pixels():
    import numpy as np

    Path("images").mkdir()
    for i in range(6):
        np.save(f"images/{i}.npy", np.full((8, 8), np.nan if i == 4 else i / 6, np.float32))
    return ["fit", "--config", FAST, "--data=ImageFolder", "--data.root=images"]


def empty_folder():
    Path("empty").mkdir()
    return ["fit", "--config", FAST, "--data=ImageFolder", "--data.root=empty"]


BAD = {
    "unknown command": (lambda: ["train"], "train"),
    "unknown key": (lambda: ["fit", "--config", FAST, "--model.init_args.sigma_colapse=3"], "sigma_colapse"),
    "missing config": (lambda: ["fit", "--config", "nowhere.yaml"], "nowhere.yaml"),
    "missing folder": (lambda: ["fit", "--config", FAST, "--data=ImageFolder", "--data.root=nowhere"], "nowhere"),
    "empty folder": (empty_folder, "empty"),
    "NaN pixels": (nan_pixels, "4.npy"),
    "k too large": (lambda: ["fit", "--config", FAST, "--data.init_args.k=64"], "64"),
    "sigma_min zero": (lambda: ["fit", "--config", FAST, "--model.init_args.sigma_min=0"], "sigma_min"),
    "sigma_min above": (lambda: ["fit", "--config", FAST, "--model.init_args.sigma_min=20"], "sigma_max"),
    "large batch": (lambda: ["fit", "--config", FAST, "--data.init_args.batch_size=65"], "batch_size is 65"),
    "no table": (lambda: ["fit", "--config", FAST, "--data.init_args.k=null"], "init_args.k"),
    "missing checkpoint": (lambda: ["fit", "--config", FAST, "--ckpt_path=nowhere.ckpt"], "nowhere.ckpt"),
    "damaged checkpoint": (damaged_checkpoint, "bad.ckpt"),
    "truncated checkpoint": (truncated_checkpoint, "cut.ckpt"),
    "damaged cache": (damaged_cache, "cache"),
    "no weights file": (
        lambda: ["fit", "--config", FAST, "--data.init_args.extractor=TorchvisionFeatures"], "resnet18"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_paragraph_before_training(case, capsys):
    make, culprit = BAD[case]
    args = make()
    capsys.readouterr()
    before = set(Path.cwd().rglob("*.ckpt"))
    code, printed = error_of(capsys, *args)
    assert code not in (0, None)
    assert culprit in printed
    assert "Traceback" not in printed
    assert set(Path.cwd().rglob("*.ckpt")) == before


def test_missing_faiss_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    code, printed = error_of(capsys, "fit", "--config", FAST)
    assert code == 1
    assert "smoothscore[cpu]" in printed


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setenv("SMOOTHSCORE_DEBUG", "1")
    with pytest.raises(ValueError, match="sigma_min"):
        main(["fit", "--config", str(FAST), "--model.init_args.sigma_min=0"])


def test_version():
    code = [sys.executable, "-m", "smoothscore", "--version"]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("smoothscore ")


@pytest.mark.parametrize("command", [["compare"], ["dedup"], ["extract"], ["analyze", "budget"]])
def test_help_names_the_extractors_and_not_every_module_there_is(command, capsys):
    with pytest.raises(SystemExit):
        main([*command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    known = text.partition("known subclasses: smoothscore.neighbors.")[2].partition(")")[0]
    assert known.endswith("smoothscore.neighbors.InceptionFeatures, and any torch.nn.Module")
    assert "torch.nn.modules" not in text
