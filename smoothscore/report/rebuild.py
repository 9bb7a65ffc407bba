"""What a finished run was measured with, built again from its configuration and nothing else."""

import json
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from torch import nn

import smoothscore.neighbors  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.data.rebuild import parse_again
from smoothscore.errors import UserError
from smoothscore.report.runs import Run

# How images are served and where neighbors are sought says nothing about which images there are.
_SERVING = (
    *("batch_size", "num_workers", "epoch_steps", "cache_dir"),
    *("k", "extractor", "class_restricted", "radius", "index", "recall_floor", "probes", "table_path"),
)


def data_key(run: Run) -> str:
    """Text that is equal for two runs only if their configurations name the same images."""
    data = run.config["data"]
    options = {key: value for key, value in (data.get("init_args") or {}).items() if key not in _SERVING}
    return json.dumps([data.get("class_path"), options], sort_keys=True, default=str)


def build_extractor(runs: list[Run]) -> nn.Module | None:
    """The extractor that all runs were measured with; None compares pixels.

    Raises:
        UserError: a run without the Generation callback, or runs that were measured in different feature spaces.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--extractor", type=nn.Module | None)
    parsed = [parse_again(parser, {"extractor": _extractor_config(run)}, run.folder / "config.yaml") for run in runs]
    descriptions = [_describe(parser, config) for config in parsed]
    for run, description in zip(runs, descriptions, strict=True):
        if description != descriptions[0]:
            raise UserError(
                f"{runs[0].name} was measured with {descriptions[0]}, {run.name} with {description}; distances in "
                "different feature spaces cannot stand in one column: give --extractor to measure all of them anew "
                "with one (for instance --extractor Pixels), or compare them apart."
            )
    built: nn.Module | None = parser.instantiate(parsed[0]).extractor
    return built


def _extractor_config(run: Run) -> Any:
    callbacks = (run.config.get("trainer") or {}).get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        options = callback.get("init_args") or {}
        if "sampler" in options:  # Generation, or a user's own in its place
            return options.get("extractor")
    raise UserError(
        f"{run.folder / 'config.yaml'} has no Generation callback, so nothing says which features {run.name} is to be "
        "measured with: give --extractor (for instance --extractor EfficientNetLite0)."
    )


def _describe(parser: ArgumentParser, config: Namespace) -> str:
    """An extractor as text, with the options that were left at their defaults."""
    extractor = config.extractor
    if extractor is None:
        return "Pixels"
    name = extractor.class_path.rpartition(".")[2]
    options = extractor.get("init_args")
    values = ", ".join(f"{key}={value!r}" for key, value in sorted(options.as_dict().items())) if options else ""
    return f"{name}({values})" if values else name
