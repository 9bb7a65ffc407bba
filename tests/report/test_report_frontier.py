"""The frontier: runs that differ in seeds alone are one point, and its figures are those of the table."""

import csv

import pytest
import yaml

from smoothscore.report import compare_runs, frontier, write_frontier
from smoothscore.report.frontier import frontier_chart
from tests.report.fake_runs import emoji16, planted, write_run

COPIES = {"n1.5_pixels": (40, 30), "n2_pixels": (10, 14), "blind": (60, 60)}


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    folder, data = tmp_path_factory.mktemp("runs"), emoji16()
    folders = []
    for name, copies in COPIES.items():
        for seed, count in zip((42, 43), copies, strict=True):
            run = write_run(folder / f"{name}-seed{seed}", planted(data, 128, copies=count, seed=seed))
            config = yaml.safe_load((run / "config.yaml").read_text())
            config["seed_everything"] = config["data"]["init_args"]["seed"] = seed
            options = config["model"]["init_args"]
            options["seed"] = seed
            if name.startswith("n"):
                rule = "smoothscore.schedules.EffectiveNeighbors"
                options["temperature"] = {"class_path": rule, "init_args": {"n": float(name[1:].split("_")[0])}}
            (run / "config.yaml").write_text(yaml.safe_dump(config))
            folders.append(run)
    return compare_runs(folders)


def test_seeds_are_taken_together_and_nothing_else(comparison):
    found = {setting.name: setting for setting in frontier(comparison)}
    assert set(found) == set(COPIES)
    rows = {row.name: row.values for row in comparison.table.rows}
    for name, setting in found.items():
        assert setting.runs == (f"{name}-seed42", f"{name}-seed43")
        shares = [rows[run]["memorized"] for run in setting.runs]
        distances = [rows[run]["frechet_test_pixels"] for run in setting.runs]
        assert setting.memorized == pytest.approx(sum(shares) / 2)  # as many samples in either
        assert setting.memorized_range == (min(shares), max(shares))
        assert setting.interval[0] <= setting.memorized <= setting.interval[1]
        assert setting.distance == pytest.approx(sum(distances) / 2)
        assert setting.distance_range == (min(distances), max(distances))
    assert found["blind"].memorized > found["n1.5_pixels"].memorized > found["n2_pixels"].memorized


def test_settings_that_differ_in_numbers_are_a_family_in_their_order(comparison):
    families = [(setting.family, setting.name) for setting in frontier(comparison)]
    assert families == [("n…_pixels", "n1.5_pixels"), ("n…_pixels", "n2_pixels"), ("blind", "blind")]


def test_files_and_chart_hold_every_setting(comparison, tmp_path):
    files = write_frontier(comparison, tmp_path)
    assert [path.name for path in files] == ["frontier.csv", "frontier.png", "frontier.svg"]
    with files[0].open(newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    for setting in frontier(comparison):
        assert float(rows[setting.name]["memorized"]) == setting.memorized
        assert float(rows[setting.name]["frechet_test_pixels"]) == setting.distance
    assert files[1].read_bytes().startswith(b"\x89PNG")
    chart = str(frontier_chart(comparison))
    assert all(f"<title>{name}: " in chart for name in COPIES)


def test_one_setting_has_no_frontier(comparison, tmp_path):
    alone = compare_runs([run.run.folder for run in comparison.runs[:2]])
    assert write_frontier(alone, tmp_path) == []
    assert frontier_chart(alone) == ""
