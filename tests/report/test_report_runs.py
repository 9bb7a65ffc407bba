"""Reading run folders: names, figures, and what is said of a folder that is no run."""

from pathlib import Path

import pytest
import torch
from fake_runs import emoji16, planted, write_run

from smoothscore.errors import UserError
from smoothscore.report.charts import Axis, _Scale, thin
from smoothscore.report.differences import Difference, differences, settings
from smoothscore.report.runs import read_metrics, read_runs, run_names


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "runs" / "one", planted(emoji16(), 8, copies=4))


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a/version_0", "runs/b/version_0"], ["a", "b"]),
        (["runs/a/version_0"], ["a/version_0"]),
        (["runs/a/version_0", "runs/a/version_1"], ["a/version_0", "a/version_1"]),
        (["x/a/last", "y/a/last", "y/b/last"], ["x/a", "y/a", "b"]),
        (["runs/a", "runs/a/a"], ["runs", "a"]),
    ],
)
def test_names_are_short_and_unique(folders, names):
    assert run_names([Path(folder) for folder in folders]) == names


def test_sparse_rows_become_curves_and_the_later_row_of_a_step_counts(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train/loss,val/loss\n0,0,0.5,\n0,20,0.25,\n0,10,nan,1\n1,20,0.125,\n")
    curves = read_metrics(path)
    assert set(curves) == {"train/loss", "val/loss"}
    assert curves["train/loss"].step == (0, 10, 20)
    assert curves["train/loss"].value[::2] == (0.5, 0.125)
    assert curves["val/loss"] == ((10,), (1.0,))


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("step,a\n1,x\n", 'row 2: "x" under a'), ("step,a\n,1\n", "row 2"), ("step,a\n1,1\nnan,1\n", "row 3: the step")],
)
def test_damaged_metrics_name_row_and_column(tmp_path, text, culprit):
    path = tmp_path / "metrics.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=culprit):
        read_metrics(path)


def test_what_is_no_run_is_named_with_its_cure(run):
    with pytest.raises(UserError, match="No run was given"):
        read_runs([])
    with pytest.raises(UserError, match=r"nowhere does not exist.*fit"):
        read_runs([run, run.parent / "nowhere"])
    with pytest.raises(UserError, match="given twice"):
        read_runs([run, run / ".." / "one"])


@pytest.mark.parametrize(
    ("name", "cure"), [("config.yaml", "no run folder"), ("metrics.csv", "RunLogger"), ("samples.npz", "validate")]
)
def test_a_missing_file_is_named_with_its_cure(run, name, cure):
    (run / name).unlink()
    with pytest.raises(UserError, match=rf"has no {name}.*{cure}"):
        read_runs([run])


def test_damaged_files_are_named(run):
    config = (run / "config.yaml").read_text()
    for text, culprit in (
        ("a: [", "no readable YAML"),
        ("trainer: {}", "names no data"),
        ("just text", "names no data"),
    ):
        (run / "config.yaml").write_text(text)
        with pytest.raises(UserError, match=rf"config\.yaml.*{culprit}"):
            read_runs([run])
    (run / "config.yaml").write_text(config)
    (run / "samples.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"samples\.npz is damaged"):
        read_runs([run])


def test_settings_that_differ_go_by_their_plain_names(tmp_path):
    samples = torch.zeros(2, 3, 16, 16)
    one = write_run(tmp_path / "one", samples, scale="optimal", data={"k": 10})
    two = write_run(tmp_path / "two", samples, scale="scheduled", extractor=None)
    rows = {row.name: row.values for row in differences(read_runs([one, two]))}
    assert rows == {
        "model.scale": ("optimal", "scheduled"),
        "data.k": ("10", "–"),
        "trainer.callbacks.Generation.extractor": ("Pixels", "none"),
    }


def test_an_option_that_is_null_is_one_that_older_runs_did_not_have(tmp_path):
    samples = torch.zeros(2, 3, 16, 16)
    runs = read_runs([write_run(tmp_path / name, samples, data=data) for name, data in
                      (("older", {}), ("newer", {"half": None}), ("half", {"half": "first"}))])  # fmt: skip
    assert differences(runs[:2]) == []
    assert settings(runs[0]) == settings(runs[1]) != settings(runs[2])
    assert differences(runs) == [Difference("data.half", ("–", "none", "first"))]


def test_thinning_keeps_means():
    points = [(float(x), float(x % 7)) for x in range(1000)]
    few = thin(points, 100)
    assert len(few) == 100
    assert few[0] == (4.5, sum(x % 7 for x in range(10)) / 10)
    assert thin(points[:3]) == points[:3]
    assert thin([]) == []


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [(1e-4, 3.0), (0.1, 1.0), (5.0, 5.0), (2.0, 2.1), (1.0, 1e6)])
def test_ticks_lie_in_the_chart_and_are_few(values, log):
    scale = _Scale.of(Axis("x", log=log), list(values), 0, 100)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)
    assert scale(values[0]) <= scale(values[1])
