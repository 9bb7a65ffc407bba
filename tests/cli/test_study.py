"""Every setting of `make study` composes to what its name says, and one of each kind runs."""

import re

import pytest
import yaml

from smoothscore.cli import main
from smoothscore.cli.compose import expand_bases
from tests.cli.test_commands import ROOT

STUDY = ROOT / "configs" / "study"
SETTINGS = sorted(path for path in STUDY.glob("*.yaml") if not path.name.startswith("_"))


def composed(path):
    """Model and data as the files give them one after another, fragments read."""
    merged = {"model": {"class_path": None, "init_args": {}}, "data": {"class_path": None, "init_args": {}}}
    for part in expand_bases(["--config", str(path)])[1::2]:
        config = yaml.safe_load(part if "\n" in part else (STUDY / part).read_text())
        for name, into in merged.items():
            given = config.get(name) or {}
            if isinstance(given, str):
                given = yaml.safe_load(((STUDY / part).parent / given).read_text())
            into["class_path"] = given.get("class_path", into["class_path"])
            into["init_args"] |= given.get("init_args", {})
    return merged["model"], merged["data"]["init_args"]


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.stem)
def test_setting_is_what_its_name_says(path):
    model, data = composed(path)
    options = model["init_args"]
    assert data["epoch_steps"] == 400
    if path.stem in ("conditioned", "unconditioned"):
        assert (
            model["class_path"] == {"conditioned": "NoiseConditioned", "unconditioned": "NoiseUnconditioned"}[path.stem]
        )
        assert data["k"] is None
        return
    kind, number, scale, space = re.fullmatch(r"([tn])([\d.]+)(?:_(\w+))?_(pixels|features)", path.stem).groups()
    temperature = options["temperature"]
    assert options["sigma_collapse"] == 5
    assert options["scale"] == (scale or "scheduled")
    assert (data["extractor"] is None) == (space == "pixels")
    assert data["k"] == 10
    key = {"t": "sigma_collapse", "n": "n"}[kind]
    assert temperature["init_args"] == {key: float(number)}
    assert temperature["class_path"].endswith({"t": "CollapseTemperature", "n": "EffectiveNeighbors"}[kind])


def test_settings_are_those_of_the_study():
    names = {path.stem for path in SETTINGS}
    spaces = ("pixels", "features")
    expected = {"conditioned", "unconditioned"}
    expected |= {f"t{c}_{scale}_{space}" for c in (5, 50) for scale in ("optimal", "scheduled") for space in spaces}
    expected |= {f"t{c}_{scale}_features" for c in (10, 20) for scale in ("optimal", "scheduled")}
    expected |= {f"n{n}_{space}" for n in ("1.05", "1.1", "1.25", "1.5", "2", "3") for space in spaces}
    assert names == expected


@pytest.mark.parametrize("name", ["conditioned", "t50_optimal_pixels", "n1.5_features"])
def test_one_of_each_kind_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    main(
        [
            "fit",
            "--config",
            str(STUDY / f"{name}.yaml"),
            "--trainer.fast_dev_run",
            "1",
            "--data.init_args.num_test",
            "16",
        ]
    )
