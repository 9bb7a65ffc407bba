"""In which settings runs differ."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from smoothscore.report.runs import Run

_PARTS = ("seed_everything", "data", "model", "trainer")
_WHERE = ("trainer.logger", "trainer.default_root_dir")  # where a run lies is no setting of it


@dataclass(frozen=True)
class Difference:
    """One setting with its value in every run, in the order of the runs; "–" where a run has no such setting."""

    name: str
    values: tuple[str, ...]


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Settings of data, model and trainer that are not the same in all runs."""
    each = [settings(run) for run in runs]
    names = dict.fromkeys(name for setting in each for name in setting)
    rows = [Difference(name, tuple(setting.get(name, "–") for setting in each)) for name in names]
    return [row for row in rows if len(set(row.values)) > 1]


def settings(run: Run) -> dict[str, str]:
    """Settings of data, model and trainer by dotted name, without those of where the run lies."""
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
        yield name, "none" if value is None else str(value)


def _item_name(part: Any, number: int) -> str:
    """A callback is known by its class and not by its place in a list."""
    return (
        str(part["class_path"]).rpartition(".")[2] if isinstance(part, dict) and "class_path" in part else str(number)
    )
