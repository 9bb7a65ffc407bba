"""One sample set feeds every measure and every logger: CSV, TensorBoard and W&B (offline)."""

import csv
import json
from pathlib import Path

import pytest
import torch
import wandb
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smoothscore.callbacks.neighbors import gathered_places
from smoothscore.cli import main
from smoothscore.data import Emoji, equal_reference_rows
from smoothscore.data.samples import SampleSet
from smoothscore.functional import memorization_report, prdc
from smoothscore.report.runs import read_metrics

ROOT = Path(__file__).parents[2]
FAST = ROOT / "configs/experiment/emoji_fast.yaml"
SMALL = ["--trainer.max_epochs=1", "--data.init_args.epoch_steps=2"]
QUICK_GROUPS = {"memorization", "frechet", "prdc", "kernel", "generation", "expansion"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with all three loggers, then a test of it."""
    folder = tmp_path_factory.mktemp("run")
    loggers = [
        {"class_path": "RunLogger", "init_args": {"save_dir": "runs", "name": "fast"}},
        {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": "runs", "name": "board"},
        },
        {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "p", "save_dir": "runs"}},
    ]
    (folder / "loggers.yaml").write_text(yaml.safe_dump({"trainer": {"logger": loggers}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("SMOOTHSCORE_CACHE", str(folder / "cache"))
        main(["fit", "--config", str(FAST), "--config", "loggers.yaml", *SMALL])
        wandb.finish()
        (checkpoint,) = (folder / "runs").rglob("last.ckpt")
        main(["test", "--config", str(FAST), *SMALL, "--ckpt_path", str(checkpoint)])
    return folder


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_validation_logs_the_quick_measures_and_test_all(run):
    fitted = read_metrics(run / "runs/fast/version_0/metrics.csv")
    groups = {name.split("/")[0] for name in fitted if "/" in name}
    assert groups == QUICK_GROUPS | {"val"}
    (tested,) = (path for path in (run / "runs").rglob("metrics.csv") if "/fast/version_0" not in str(path))
    figures = read_metrics(tested)
    assert {name.split("/")[0] for name in figures} >= QUICK_GROUPS | {"authenticity", "copies", "diversity"}
    assert 0 < figures["copies/p_value_pixels"].value[-1] <= 1
    sampling, measuring = (fitted[f"generation/{name}"].value[-1] for name in ("seconds", "measuring_seconds"))
    assert measuring > 0
    assert sampling > 0


def test_logged_figures_are_those_of_the_kept_samples(run):
    folder = run / "runs/fast/version_0"
    logged = {name: curve.value[-1] for name, curve in read_metrics(folder / "metrics.csv").items()}
    samples = SampleSet.load(folder / "samples.npz")
    data = Emoji(image_size=8, num_train=64, num_test=64)
    report = memorization_report(samples.images, data.train.pixels, control=data.test.pixels)
    assert logged["memorization/fraction"] == pytest.approx(report.fraction)
    assert logged["memorization/difference_low"] == pytest.approx(report.difference_interval[0])
    _, rows = equal_reference_rows(data.train.labels, data.test.labels)
    reference = data.test.pixels[rows].flatten(1).float() / 255
    expected = prdc(reference, samples.images.clamp(0, 1).flatten(1))
    for name, value in expected._asdict().items():
        assert logged[f"prdc/{name}_pixels"] == pytest.approx(value, abs=1e-6)


def test_neighbors_are_kept_most_copied_first(run):
    folder = run / "runs/fast/version_0"
    rows = read_csv(folder / "neighbors.csv")
    samples = SampleSet.load(folder / "samples.npz")
    data = Emoji(image_size=8, num_train=64, num_test=64)
    report = memorization_report(samples.images, data.train.pixels)
    assert [int(row["seed"]) for row in rows] == samples.seeds[report.ratio.argsort(stable=True)].tolist()
    place = {seed: number for number, seed in enumerate(samples.seeds.tolist())}
    for row in rows:
        number = place[int(row["seed"])]
        assert float(row["ratio"]) == pytest.approx(float(report.ratio[number]), rel=1e-6)
        assert float(row["distance"]) == pytest.approx(float(report.distance[number]), rel=1e-6)
        assert int(row["nearest"]) == int(report.nearest[number])


def test_tensorboard_shows_scalars_pictures_and_the_table(run):
    (board,) = (run / "runs/board").iterdir()
    events = EventAccumulator(str(board)).Reload()
    scalars = events.Tags()["scalars"]
    assert {"memorization/fraction", "kernel/test_pixels", "prdc/coverage_pixels", "expansion/network_0.2"} <= set(
        scalars
    )
    assert set(events.Tags()["images"]) == {"generation/grid", "expansion/curve"}
    (text,) = events.Tensors("generation/neighbors/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[0] == "| seed | ratio | distance | nearest |"
    assert len(lines) == 2 + 16
    first = read_csv(run / "runs/fast/version_0/neighbors.csv")[0]
    assert lines[2].startswith(f"| {first['seed']} | {float(first['ratio']):.4g} |")


def test_wandb_keeps_scalars_pictures_and_the_table_offline(run):
    files = [path for path in (run / "runs").rglob("*") if "offline-run" in str(path) and path.is_file()]
    names = [str(path) for path in files]
    for picture in ("generation/grid", "expansion/curve"):
        assert any(picture in name and name.endswith(".png") for name in names)
    (table,) = (path for path in files if "generation/neighbors" in str(path) and path.suffix == ".json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["seed", "ratio", "distance", "nearest", "sample", "match"]
    assert len(content["data"]) == 16
    first = read_csv(run / "runs/fast/version_0/neighbors.csv")[0]
    assert content["data"][0][0] == int(first["seed"])
    assert content["data"][0][4:] == ["Image", "Image"]  # the pictures themselves go into an artifact
    stored = next(path for path in files if path.suffix == ".wandb").read_bytes()
    for name in (b"memorization/difference", b"kernel/train_pixels", b"prdc/recall_pixels", b"frechet/ratio_pixels"):
        assert name in stored


def test_measures_are_chosen_by_configuration(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    config = yaml.safe_load(FAST.read_text())
    options = next(part["init_args"] for part in config["trainer"]["callbacks"] if part["class_path"] == "Generation")
    options["measures"] = ["diversity"]
    config["trainer"]["logger"]["init_args"]["name"] = "chosen"
    Path("chosen.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "chosen.yaml", *SMALL])
    figures = read_metrics(next((run / "runs/chosen").rglob("metrics.csv")))
    assert {"diversity/vendi_pixels", "frechet/ratio_pixels"} <= set(figures)
    assert not any(name.startswith(("prdc", "kernel")) for name in figures)
    options["measures"] = ["fid"]
    Path("chosen.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main(["fit", "--config", "chosen.yaml", *SMALL])
    assert 'there is no "fid"' in capsys.readouterr().err


@pytest.mark.parametrize(("count", "world_size"), [(7, 3), (6, 2), (5, 1), (2, 4)])
def test_places_after_gathering(count, world_size):
    """Shares of rows [rank::world_size], one behind the other, point back at the rows they came from."""
    samples = torch.arange(10, 10 + count)
    gathered = torch.cat([samples[rank::world_size] for rank in range(world_size)])
    assert torch.equal(samples[gathered_places(count, world_size)], gathered)
