"""`base:` in a configuration: order, relative paths, and circles."""

import pytest
import yaml

from smoothscore.cli.compose import expand_bases
from smoothscore.errors import UserError


def write(path, **content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_bases_come_first_and_files_without_one_stay_paths(tmp_path):
    shared = write(tmp_path / "shared.yaml", seed_everything=1)
    write(tmp_path / "set" / "told.yaml", base="../shared.yaml", model={"a": 1})
    row = write(tmp_path / "set" / "blind.yaml", base=["told.yaml"], model={"a": 2})
    flag, first, *rest = expand_bases(["--config", row, "--x=3", f"--config={shared}"])
    assert (flag, first) == ("--config", shared)
    assert [yaml.safe_load(rest[i]) for i in (1, 3)] == [{"model": {"a": 1}}, {"model": {"a": 2}}]
    assert rest[4:] == ["--x=3", "--config", shared]


def test_arguments_without_a_base_are_left_alone(tmp_path):
    plain = write(tmp_path / "plain.yaml", model={"a": 1})
    for args in (["--config", plain, "--print_config"], ["--config", "missing.yaml"], ["--config"], []):
        expected = [str(tmp_path / "plain.yaml") if part == plain else part for part in args]
        assert [part.rpartition("/")[2] for part in expand_bases(args)] == [p.rpartition("/")[2] for p in expected]


def test_circles_and_missing_bases_are_named(tmp_path):
    one = write(tmp_path / "one.yaml", base="two.yaml")
    write(tmp_path / "two.yaml", base="one.yaml")
    with pytest.raises(UserError, match=r"one\.yaml is a base of itself"):
        expand_bases(["--config", one])
    lost = write(tmp_path / "lost.yaml", base="nowhere.yaml")
    with pytest.raises(UserError, match=r"nowhere\.yaml, which does not exist"):
        expand_bases(["--config", lost])
