"""In which settings runs differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smoothscore.report.runs import Run

_PARTS = ("seed_everything", "data", "model", "trainer")
_NONE = "none"
_WHERE = ("trainer.logger", "trainer.default_root_dir")  # where a run lies is no setting of it


@dataclass(frozen=True)
class Difference:
    """One setting with its value in every run, in the order of the runs; "–" where a run has no such setting."""

    name: str
    values: tuple[str, ...]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Settings of data, model and trainer that are not the same in all runs; null and absent are the same."""
    each = [_named(run) for run in runs]
    names = dict.fromkeys(name for setting in each for name in setting)
    rows = [Difference(name, tuple(setting.get(name, "–") for setting in each)) for name in names]
    return [row for row in rows if len({_NONE if value == "–" else value for value in row.values}) > 1]


def settings(run: Run) -> dict[str, str]:
    """Settings of data, model and trainer by dotted name, without those of where the run lies.

    An option that is null is left out: runs from before it existed did the same.
    """
    return {name: value for name, value in _named(run).items() if value != _NONE}


def _named(run: Run) -> dict[str, str]:
    flat = _flat({part: run.config.get(part) for part in _PARTS})
    return {name: value for name, value in flat if not name.startswith(_WHERE)}


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Settings by dotted name; an object is its class, and its options follow without `init_args`."""
    if isinstance(value, dict) and "class_path" in value:
        yield name, str(value["class_path"]).rpartition(".")[2]
        yield from _flat(value.get("init_args") or {}, name)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value):
            yield from _flat(part, f"{name}.{_item_name(part, number)}")
    else:
        yield name, _NONE if value is None else str(value)


def _item_name(part: Any, number: int) -> str:
    """A callback is known by its class and not by its place in a list."""
    return (
        str(part["class_path"]).rpartition(".")[2] if isinstance(part, dict) and "class_path" in part else str(number)
    )
