"""A pytest plugin that adds up what the robustness tests tried, and writes it down: `pytest --tally PAGE.md`.

The counts lie beside the page as .json. A test that runs again replaces its own, so the long forms may run in parts.
"""

import json
import os
import platform
from pathlib import Path

import pytest

_KEY = pytest.StashKey[dict]()
TITLE = """# What a run and its files survive
`make test-long` writes this page; its tests may also run in parts (`pytest tests/robustness -m slow --tally
docs/results/robustness.md`), which add to it. *Tried* counts attacks: kills, flipped bytes, truncations, ways of
opening hostile files, drawn cases. *Survived* means that the result was the same as without the attack, bit for
bit where the row says so; *detected* that the attack was refused with an error that names the file. An attack that
ends in neither fails its test and is not counted.

Of two processes one is killed, the first and the second in turn; the other has to end by itself. A SIGTERM in the last
step comes too late to stop anything: the run ends as usual, and has to equal a straight one too.
"""


class Tally:
    """Counts of one test, under the name of what it tries."""

    def __init__(self, counts, test):
        self._counts, self._test = counts, test

    def __call__(self, what, *, survived=0, detected=0):
        entry = self._counts.setdefault(what, {}).setdefault(self._test, [0, 0])
        entry[0] += survived
        entry[1] += detected


def pytest_addoption(parser):
    parser.addoption("--tally", metavar="PAGE", help="write the counts of the robustness tests to PAGE.md")


def pytest_configure(config):
    config.stash[_KEY] = {}


@pytest.fixture
def tally(request):
    """`tally("kills", survived=1)` once an attack has come out well."""
    return Tally(request.config.stash[_KEY], request.node.nodeid)


def pytest_sessionfinish(session):
    page = session.config.getoption("--tally")
    if page is None or not session.config.stash[_KEY]:
        return
    page = Path(page)
    store = page.with_suffix(".json")
    counts = json.loads(store.read_text()) if store.is_file() else {}
    for what, tests in session.config.stash[_KEY].items():
        counts.setdefault(what, {}).update(tests)
    store.write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
    rows = ["| what | tried | survived | detected |", "|---|---|---|---|"]
    for what, tests in sorted(counts.items()):
        survived, detected = (sum(column) for column in zip(*tests.values(), strict=True))
        rows.append(f"| {what} | {survived + detected:,} | {survived:,} | {detected:,} |")
    machine = (
        f"\n{os.cpu_count()} CPU cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}.\n"
    )
    failed = f"\n**{session.testsfailed} tests failed.**\n" if session.testsfailed else ""
    page.write_text(TITLE + failed + "\n" + "\n".join(rows) + "\n" + machine)
