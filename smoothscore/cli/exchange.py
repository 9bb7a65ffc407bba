"""`smoothscore export` and `smoothscore import`: weights for other tools, and those of other projects."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

import smoothscore.data  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.cli.inputs import open_folder
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.modules.checkpoint import build_module, load_trained
from smoothscore.modules.exchange import export_model, save_imported
from smoothscore.networks import NCSNpp, import_score_sde

_BASE: dict[str, Any] = {"nf": 128, "num_res_blocks": 4, "attn_resolutions": [16], "ch_mult": [1, 2, 2, 2]}
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {**_BASE, "image_size": 32, "sigma_max": 50.0},
    "celeba": {**_BASE, "image_size": 64, "sigma_max": 90.0},
    "celebahq_256": {
        **_BASE,
        "image_size": 256,
        "num_res_blocks": 2,
        "ch_mult": [1, 1, 2, 2, 2, 2, 2],
        "progressive": "output_skip",
        "progressive_input": "input_skip",
        "sigma_max": 348.0,
        "num_levels": 2000,
    },
}


def run(name: str, args: Sequence[str]) -> None:
    """Export a checkpoint, or import one."""
    options = _parser(name).parse_args(list(args))
    (_export if name == "export" else _import)(options)


def _export(options: Namespace) -> None:
    out = open_folder(options.out)
    if options.raw and options.decay is not None:
        raise UserError("--raw and --decay ask for different weights: give one of them.")
    average = not options.raw if options.decay is None else options.decay
    trained = load_trained(options.checkpoint, average=average)
    for file in export_model(trained, out, _figures(Path(options.checkpoint))):
        print(file)


def _import(options: Namespace) -> None:
    out = open_folder(options.out)
    network = {**PRESETS[options.preset], **(options.network or {})}
    network["embedding"] = "positional" if options.discrete else "fourier"
    model = {
        "class_path": "smoothscore.modules.NoiseConditioned",
        "init_args": {
            "sigma_min": network.get("sigma_min", 0.01),
            "sigma_max": network["sigma_max"],
            "num_levels": network.get("num_levels", 1000),
            "network": {"class_path": "smoothscore.networks.NCSNpp", "init_args": network},
        },
    }
    module = build_module({"model": model}, Path("the options"))
    assert isinstance(module.network, NCSNpp)
    import_score_sde(options.checkpoint, module.network, ema=not options.raw)
    save_imported(module, model, out / "model.ckpt")
    text = "# A fragment: the model of an imported checkpoint.\n" + yaml.safe_dump(model, sort_keys=False)
    write_atomically(out / "model.yaml", text.encode())
    print(f"{out / 'model.ckpt'}\n{out / 'model.yaml'}")


def _figures(checkpoint: Path) -> dict[str, str]:
    """The last measures of the run that a checkpoint lies in."""
    path = checkpoint.absolute().parent.parent / "metrics.csv"
    found: dict[str, str] = {}
    if path.is_file():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                found.update({key: value for key, value in row.items() if value and "/" in key})
    kept = ("memorization/", "frechet/", "generation/nfe")
    return {name: f"{float(value):.4g}" for name, value in sorted(found.items()) if name.startswith(kept)}


def _parser(name: str) -> ArgumentParser:
    if name == "export":
        parser = ArgumentParser(
            prog="smoothscore export",
            description="Write the weights of a checkpoint as safetensors, with its configuration and a model card "
            "that says what was measured of it.",
        )
        parser.add_argument("checkpoint", help="a checkpoint of a run, such as checkpoints/last.ckpt")
        parser.add_argument(
            "--decay", type=float | None, help="which average, where the run kept several; by default the one it used"
        )
    else:
        parser = ArgumentParser(
            prog="smoothscore import",
            description="Turn a checkpoint of score_sde_pytorch (VE, NCSN++) into one of ours: model.ckpt for predict, "
            "test and analyze, and model.yaml for --model.",
        )
        parser.add_argument("checkpoint", help="a checkpoint_N.pth")
        parser.add_argument("--preset", choices=sorted(PRESETS), default="cifar10", help="which network it holds")
        parser.add_argument("--discrete", action="store_true", help="trained on discrete levels, not continuously")
        parser.add_argument("--network", type=dict | None, help="options of NCSNpp that differ from the preset")
    parser.add_argument("--out", required=True, help="folder of the files, made where there is none")
    parser.add_argument("--raw", action="store_true", help="the raw weights instead of their average")
    return parser
