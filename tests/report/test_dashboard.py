"""The W&B dashboard holds what runs log, all of it and no more, in the words of `smoothscore compare`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb_workspaces.reports.v2 import Report
from wandb_workspaces.reports.v2.internal import ReportViewspec
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from smoothscore.report.columns import columns
from smoothscore.report.dashboard import GROUPS
from smoothscore.report.runs import read_metrics
from smoothscore.report.wandb_pages import build_page, page_spec

FAST = Path(__file__).parents[2] / "configs/experiment/emoji_fast.yaml"
KINDS = ("report", "view")
# Everything that can be logged: all measures, and updates that the guard of the loss skips.
EVERYTHING = {
    "trainer": {
        "max_epochs": 1,
        "log_every_n_steps": 1,
        "logger": [
            {"class_path": "RunLogger", "init_args": {"save_dir": "runs", "name": "all"}},
            {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": {"project": "p", "save_dir": "runs"}},
        ],
        "callbacks": [
            {
                "class_path": "Generation",
                "init_args": {
                    "sampler": {"class_path": "PredictorCorrector", "init_args": {"sigmas": 10}},
                    "num_samples": 32,
                    "measures": ["prdc", "kernel", "diversity", "authenticity"],
                },
            },
            {"class_path": "ExpansionRatio", "init_args": {"sigmas": [0.2, 0.5]}},
        ],
    },
    "data": {"init_args": {"epoch_steps": 30}},
    "loss_guard": {"action": "skip", "factor": 1.01, "max_skipped": 30},
}


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """Names of the scalars, and of the pictures and tables, that W&B has of a short run."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "everything.yaml").write_text(yaml.safe_dump(EVERYTHING))
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    script = Path(sys.executable).with_name("smoothscore")  # W&B keeps one session per process
    subprocess.run(
        [script, "fit", "--config", FAST, "--config", "everything.yaml"],
        check=True,
        cwd=folder,
        env=clean | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "SMOOTHSCORE_CACHE": str(folder / "cache")},
        timeout=300,
    )
    (stored,) = folder.rglob("*.wandb")
    scalars = set(read_metrics(next(folder.rglob("metrics.csv"))))
    assert all(name.encode() in stored.read_bytes() for name in scalars | {"trainer/global_step"})
    media = (path.relative_to(stored.parent / "files/media") for path in stored.parent.rglob("media/*/*/*.*"))
    return scalars, {"/".join((*path.parts[1:-1], path.name.split("_")[0])) for path in media}


def panels(spec: dict) -> list[dict]:
    """All panels of a report's or a view's specification."""
    if "blocks" in spec["spec"]:
        grids = [block["metadata"] for block in spec["spec"]["blocks"] if block["type"] == "panel-grid"]
        return [panel for grid in grids for panel in grid["panelBankSectionConfig"]["panels"]]
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    found = [panel for section in sections for panel in section["panels"]]
    return [panel for panel in found if panel["viewType"] != "Markdown Panel"]


def contents(page) -> list[tuple[str, dict]]:
    """Kind and settings of every panel; the library's reader forgets the place of a table."""
    return [(panel["viewType"], panel["config"]) for panel in panels(page_spec(page))]


def text(spec: dict) -> str:
    """All that a page says beside its panels."""
    if "blocks" in spec["spec"]:
        return "\n".join(block["content"] for block in spec["spec"]["blocks"] if block["type"] == "markdown-block")
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return "\n".join(
        panel["config"]["value"]
        for section in sections
        for panel in section["panels"]
        if panel["viewType"] == "Markdown Panel"
    )


def shows(panel: dict, name: str) -> bool:
    """Whether a panel shows a figure, picture or table of this name."""
    config = panel["config"]
    if panel["viewType"] == "Weave":
        return config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"] == name
    if panel["viewType"] == "Media Browser":
        return name in config["mediaKeys"]
    assert panel["viewType"] == "Run History Line Plot"
    if config.get("useMetricRegex"):
        assert not config["metrics"]
        return re.search(config["metricRegex"], name) is not None
    return name in config["metrics"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("features", ["pixels", "lite0", "TorchvisionFeatures"])
def test_every_logged_figure_has_exactly_one_panel(logged, kind, features):
    scalars, media = logged
    shown = panels(page_spec(build_page("p", kind=kind)))
    for name in scalars:
        name = re.sub("_pixels$", f"_{features}", name)
        assert sum(shows(panel, name) for panel in shown) == 1, name
    assert media == {"generation/grid", "generation/neighbors", "expansion/curve"}
    for name in media:
        assert sum(shows(panel, name) for panel in shown) == 1, name


@pytest.mark.parametrize("kind", KINDS)
def test_no_panel_asks_for_what_is_never_logged(logged, kind):
    scalars, media = logged
    shown = panels(page_spec(build_page("p", kind=kind)))
    described = [panel for group in GROUPS for panel in group.panels]
    assert len(shown) == len(described)
    for panel, spec in zip(described, shown, strict=True):
        for name in panel.names:
            ends = ("_pixels", "_0.2") if panel.varying else ("",)
            found = [name + end for end in ends if name + end in (scalars if panel.kind == "lines" else media)]
            assert len(found) == 1, name
            assert shows(spec, found[0])
        if panel.kind == "lines":
            assert spec["config"]["xAxis"] == "trainer/global_step"
        assert spec["config"].get("yLogScale", False) == panel.log


@pytest.mark.parametrize("kind", KINDS)
def test_measures_are_explained_in_the_words_of_compare(kind):
    said = text(page_spec(build_page("p", kind=kind)))
    in_points = "excess"  # compare shows percentage points, and runs log a share
    abouts = [column.about for column in columns("lite0", ["0.1"]) if column.about and column.key != in_points]
    assert len(abouts) > 15
    for about in abouts:
        assert about in said
    assert "**Precision.** " in said
    assert re.search(r"\*\*Recall\.\*\* .* High is good\.\n", said)
    assert re.search(r"\*\*Excess copies\.\*\* .* Low is good\.\n", said)
    assert "* **p-value.** Probability" in said
    assert all(group.text in said for group in GROUPS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("group", [None, "cifar10", "it's", 'a "b"', "back\\slash", "x = 1 or y != 2", "σ ≤ 0.5", "7"])
def test_only_runs_of_the_group_are_shown(kind, group):
    spec = page_spec(build_page("p", kind=kind, group=group, title="t"))["spec"]
    if kind == "report":
        runs = [part for block in spec["blocks"] for part in block.get("metadata", {}).get("runSets", [])]
        assert len(runs) == len(GROUPS)
    else:
        runs = spec["section"]["runSets"]
    for each in runs:
        asked = [(part["key"], part["op"], part["value"]) for part in each["filters"]["filters"]]
        assert asked == ([] if group is None else [({"section": "run", "name": "group"}, "=", group)])


def test_the_library_reads_back_what_it_would_send():
    spec = page_spec(build_page("p", entity="me", group="g"))
    report = Report._from_model(ReportViewspec.model_validate(spec))
    assert (report.project, report.entity, report.title) == ("p", "me", "smoothscore, g")
    assert contents(report) == contents(build_page("p"))
    assert text(page_spec(report)) == text(spec)
    spec = page_spec(build_page("p", kind="view", entity="me"))
    view = Workspace._from_model(View.model_validate(spec))
    assert (view.project, view.entity, view.name) == ("p", "me", "smoothscore")
    assert [section.name for section in view.sections] == [group.title for group in GROUPS]
    assert contents(view) == contents(build_page("p", kind="view"))


def test_panels_of_a_grid_lie_side_by_side():
    for block in page_spec(build_page("p"))["spec"]["blocks"]:
        if block["type"] != "panel-grid":
            continue
        taken = set()
        for panel in block["metadata"]["panelBankSectionConfig"]["panels"]:
            place = panel["layout"]
            assert place["y"] % place["h"] == 0
            assert place["x"] + place["w"] <= 24
            cells = {(x, place["y"]) for x in range(place["x"], place["x"] + place["w"])}
            assert not cells & taken
            taken |= cells
