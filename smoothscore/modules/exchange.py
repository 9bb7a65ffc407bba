"""Weights in and out: safetensors with a model card, and checkpoints made of other projects' weights."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import lightning
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from smoothscore import __version__
from smoothscore.data.samples import write_atomically
from smoothscore.errors import UserError
from smoothscore.modules.base import ScoreModule
from smoothscore.modules.checkpoint import Trained, build_module, fill
from smoothscore.modules.storage import write_checkpoint
from smoothscore.modules.trust import refuse_foreign_classes

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


def export_model(trained: Trained, folder: Path, figures: Mapping[str, str]) -> list[Path]:
    """Write a module's weights as safetensors, its configuration, and a model card.

    Args:
        trained: from `load_trained`.
        folder: made where there is none.
        figures: what was measured of it, by name, for the card.

    Returns:
        The files: model.safetensors, config.json, README.md.
    """
    weights = {name: value.contiguous() for name, value in trained.module.state_dict().items()}
    config = {"smoothscore": __version__, "step": trained.step, **trained.config}
    contents = {
        WEIGHTS: save(weights, metadata={"format": "pt"}),
        CONFIG: (json.dumps(config, indent=1) + "\n").encode(),
        CARD: _card(trained, figures).encode(),
    }
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return [folder / name for name in contents]


def load_exported(folder: str | Path, *, trust: Collection[str] = ()) -> ScoreModule:
    """The module that `export_model` wrote, in evaluation mode.

    Args:
        folder: with model.safetensors and config.json.
        trust: classes and functions outside of smoothscore that the configuration may name, such as "mine.MyTarget".

    Raises:
        UserError: a missing or damaged file, a class that is not trusted, or weights that do not fit.
    """
    folder = Path(folder)
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise UserError(f"{folder} holds no {name}: name a folder that `smoothscore export` wrote.")
    try:
        config = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
        if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
            raise ValueError(f"{CONFIG} names no model")
    except (SafetensorError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{folder} is damaged ({error}): export the model again.") from error
    refuse_foreign_classes(config["model"], trust, folder / CONFIG)
    module = build_module(config, folder / CONFIG)
    fill(module, weights, folder / WEIGHTS)
    return module.eval().requires_grad_(False)


def save_imported(module: ScoreModule, model: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint that `validate`, `test`, `predict` and `load_trained` open, made of a filled module.

    Args:
        module: with the weights.
        model: its class_path and init_args, as in a configuration.
        path: the file.
    """
    content = {
        "state_dict": module.state_dict(),
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": lightning.__version__,
        "smoothscore": {"version": __version__, "config": yaml.safe_dump({"model": dict(model)})},
    }
    write_checkpoint(content, path)


def _card(trained: Trained, figures: Mapping[str, str]) -> str:
    module, network = trained.module, trained.module.network
    told = "told the noise level" if getattr(network, "conditioned", True) else "blind: never told the noise level"
    parameters = sum(p.numel() for p in network.parameters())
    data = (trained.config.get("data") or {}).get("class_path", "unknown data").rpartition(".")[2]
    measured = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    table = f"| measure | value |\n|---|---|\n{measured}" if measured else "Nothing was measured in the run folder."
    return f"""---
library_name: smoothscore
tags: [diffusion, score-based, smoothscore]
---
# {type(module).__name__} on {data}
{type(network).__name__}, {parameters:,} parameters, {told}. Images {list(_shape(trained))} in [0, 1], noise levels
from {module.sigma_min:g} to {module.sigma_max:g}, {trained.step:,} steps. The network predicts unit noise F; the score
is -F/sigma (arXiv 2601.19285).

```python
from smoothscore.modules.exchange import load_exported
from smoothscore.samplers import PredictorCorrector

module = load_exported("this folder")
sampler = PredictorCorrector(200).bind(module.sigma_min, module.sigma_max)
images = sampler.sample(module.score, (16, {", ".join(map(str, _shape(trained)))}), seeds=range(16))
```

## Does it copy its training images?
{table}

memorization/fraction: share of samples whose nearest training image is less than 2/3 as far as the second nearest;
memorization/held_out: the same share of held-out images, the level of a model that does not copy.
"""


def _shape(trained: Trained) -> tuple[int, ...]:
    network = trained.module.network
    size, channels = (getattr(network, name, None) for name in ("image_size", "in_channels"))
    return (channels, size, size) if size and channels else trained.data.image_shape
