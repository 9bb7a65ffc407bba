"""Every row of the paper's tables runs through the command line, on tiny data in the format of its data set."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from smoothscore.cli import main
from tests.cli.test_commands import ROOT

PAPER = ROOT / "configs" / "experiment" / "paper"
ROWS = sorted(path for path in PAPER.rglob("*.yaml") if not path.name.startswith("_"))
SMALL = [
    "--model.init_args.network.init_args.nf=8",
    "--model.init_args.network.init_args.num_res_blocks=1",
    "--data.init_args.batch_size=4",
    "--data.init_args.num_workers=0",
    "--trainer.fast_dev_run=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


def picture(rng, height, width):
    """A smooth random picture, uint8 [height, width, 3]."""
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def write_pictures(folder, names, height, width, rng):
    folder.mkdir(parents=True)
    for name in names:
        Image.fromarray(picture(rng, height, width)).save(folder / name)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A working directory with data/ and weights/ as the recipes name them."""
    folder = tmp_path_factory.mktemp("paper")
    rng = np.random.default_rng(0)
    data = folder / "data"
    cifar = data / "cifar10" / "cifar-10-batches-bin"
    cifar.mkdir(parents=True)
    for name, count in (*((f"data_batch_{number}", 25) for number in range(1, 6)), ("test_batch", 10)):
        rows = [[rng.integers(10), *picture(rng, 32, 32).transpose(2, 0, 1).ravel()] for _ in range(count)]
        np.asarray(rows, dtype=np.uint8).tofile(cifar / f"{name}.bin")
    celeba = [f"{number:06d}.jpg" for number in range(1, 131)]
    write_pictures(data / "celeba" / "img_align_celeba", celeba, 218, 178, rng)
    parts = "".join(f"{name} {0 if number < 120 else 2}\n" for number, name in enumerate(celeba))
    (data / "celeba" / "list_eval_partition.txt").write_text(parts)
    write_pictures(data / "celebahq", [f"{number:05d}.jpg" for number in range(40)], 256, 256, rng)
    for kind in ("cat", "caracal"):
        write_pictures(data / "cat-caracal" / kind, [f"{number}.png" for number in range(30)], 64, 64, rng)
    imagenet = data / "imagenet64"
    imagenet.mkdir()
    for name, count in (("train_data_batch_1", 70), ("val_data", 10)):
        rows = np.stack([picture(rng, 64, 64).transpose(2, 0, 1).ravel() for _ in range(count)])
        np.savez(imagenet / f"{name}.npz", data=rows, labels=1 + np.arange(count) % 2)
    (folder / "weights").mkdir()
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "weights" / "resnet18-f37072fd.pth")
    return folder


@pytest.mark.parametrize("path", ROWS, ids=lambda path: str(path.relative_to(PAPER)))
def test_row_runs(path, workplace, monkeypatch):
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("SMOOTHSCORE_CACHE", str(workplace / "cache"))
    options = list(SMALL)
    if path.parent.name == "caracal":
        options += ["--data.init_args.num_train=48", "--data.init_args.num_test=12"]
    if path.stem.endswith("feature"):
        options.append("--data.init_args.extractor.init_args.resize=32")
    main(["fit", "--config", str(path), *options])


def test_each_data_set_has_its_conditioned_and_unconditioned_row():
    for folder in {path.parent for path in ROWS}:
        assert {"conditioned", "unconditioned"} < {path.stem for path in folder.iterdir()}
    assert {path.parent.name for path in ROWS} == {"cifar10", "celeba", "imagenet64", "celebahq256", "caracal"}
