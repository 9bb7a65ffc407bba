"""What the documentation shows is run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def python_blocks(path):
    return re.findall(r"```python\n(.*?)```", (ROOT / path).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", ["README.md", "docs/index.md"])
def test_ten_lines_of_python_run_and_the_exact_score_copies(path, capsys):
    (code,) = python_blocks(path)
    exec(compile(code, path, "exec"), {})
    assert float(capsys.readouterr().out) == 1.0
    assert len([line for line in code.splitlines() if line]) <= 12


def test_the_scheme_in_the_documentation_is_short_and_defines_a_module():
    (code,) = python_blocks("docs/extending.md")
    names = {}
    exec(compile(code, "mine.py", "exec"), names)
    assert "score_target" in vars(names["PlainMean"])
    assert len([line for line in code.splitlines() if line]) < 15


def test_every_page_of_the_navigation_exists():
    pages = re.findall(r": ([\w/]+\.md)", (ROOT / "mkdocs.yml").read_text())
    assert pages
    assert all((ROOT / "docs" / page).is_file() for page in pages)


def test_the_long_tests_start_with_their_page():
    """pytest takes a page that stands alone for the tests to run, and then knows nothing of --tally."""
    printed = subprocess.run(["make", "-n", "test-long"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in printed.splitlines() if "--tally" in line]
    command = [sys.executable, "-m", "pytest", *shlex.split(line)[1:], "--help"]
    assert "--tally=PAGE" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
