"""A data module built again from the configuration that a run or a checkpoint keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

import smoothscore.data  # noqa: F401  # imported, so that class_path takes short names
from smoothscore.data.base import ImageDataModule
from smoothscore.errors import UserError


def build_data(config: Mapping[str, Any], source: Path) -> ImageDataModule:
    """The data module of a run, without its neighbor table and without the extractor that found it.

    Args:
        config: the run's configuration; its part `data` has class_path and init_args.
        source: the file it came from, for the error.

    Raises:
        UserError: a class or an option that is not there (any more).
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data", required=True)
    data = without_extractor(config["data"])
    built: ImageDataModule = parser.instantiate(parse_again(parser, {"data": data}, source)).data
    return built


def without_extractor(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a data module needs: a table is attached in setup, so the extractor's weights are not needed before."""
    options = data.get("init_args") or {}
    return {**data, "init_args": {key: value for key, value in options.items() if key != "extractor"}}


def parse_again(parser: ArgumentParser, values: dict[str, Any], source: Path) -> Namespace:
    """Parse a configuration that was valid when it was written.

    Raises:
        UserError: it is not valid here and now.
    """
    try:
        parsed: Namespace = parser.parse_object(values)
        return parsed
    except ArgumentError as error:
        raise UserError(
            f"The configuration in {source} cannot be built again ({' '.join(str(error).split())}): start where the "
            "training was started, with the same modules in reach, and with the version that wrote it."
        ) from error
