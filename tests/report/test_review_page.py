"""The review page: self-contained, and what real keys in a browser make of a thousand pairs."""

import json
import os
import re
import time

import pytest
import torch
from chromium_pipe import Browser, find_browser
from test_report_page import Page, decode_uri

from smoothscore.data.sources import Images
from smoothscore.report.decisions import read_decisions
from smoothscore.report.evidence import sample_images
from smoothscore.report.findings import Audit, Options, Pair
from smoothscore.report.review import write_review

COUNT = 1000


@pytest.fixture(scope="module")
def images(emoji):
    generator = torch.Generator().manual_seed(0)
    small = torch.nn.functional.avg_pool2d(emoji.float() / 255, 2)
    noise = 0.05 * torch.randn(COUNT, 3, 16, 16, generator=generator)
    return Images(small[:COUNT] + noise, "samples.npy"), Images((small * 255).round().to(torch.uint8), "train.npy")


@pytest.fixture(scope="module")
def found():
    pairs = []
    for row in range(COUNT):
        nearest = tuple((row // 2 + step) % 1400 for step in range(5))
        score = (row % 100) / 100
        name = "<script>alert(1)</script>" if row == 3 else str(row)
        pairs.append(
            Pair(row, name, nearest[0], str(nearest[0]), score, 0.1, 0.3 if row < 600 else 0.7, row % 7 == 0, row < 600,
                 1 + (row == 0), nearest, tuple(0.1 + 0.01 * step for step in range(5)))
        )  # fmt: skip
    return Audit("0123456789abcdef" * 4, "samples.npy", "train.npy", 5000, 1412, 1407, "lite0", Options(), tuple(pairs))


@pytest.fixture(scope="module")
def path(found, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("review") / "review.html"
    write_review(found, *images, path)
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = find_browser()
    if os.environ.get("CI"):
        pytest.skip("CI has no screen to look at: the review page is used in a browser on developers' machines only")
    if program is None:
        pytest.skip("no Chromium on this machine: the review page is not used in a browser")
    browser = Browser(program, tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, path):
    """The page without any decision."""
    browser.open(path.as_uri())
    browser.run("localStorage.clear()")
    browser.open(path.as_uri())
    return browser


def stored(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S).group(1))


def test_page_is_well_formed_and_loads_nothing(path):
    text = path.read_text()
    parsed = Page(text)
    bare = re.sub(r"data:image/png;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", bare)
    assert "default-src 'none'" in bare
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "<script>alert" not in text


def test_training_images_stand_in_the_page_once(path, found, images):
    data = stored(path.read_text())
    assert len(data["samples"]) == COUNT
    shown = {row for pair in found.pairs for row in pair.nearest}
    assert set(data["train"]) == set(map(str, shown))
    assert torch.equal(decode_uri(data["train"]["17"]), images[1].pixels[17])
    expected = (sample_images(found.pairs[:8], images[0]) * 255).round().to(torch.uint8)
    assert torch.equal(decode_uri(data["samples"][7]), expected[7])  # mirrored, as it was compared
    assert torch.equal(expected[7], (images[0].pixels[7].clamp(0, 1) * 255).round().to(torch.uint8).flip(-1))
    assert data["pairs"][3]["names"][0] == "row 1"


def test_fewer_pairs_make_a_smaller_page(found, images, tmp_path):
    write_review(found, *images, tmp_path / "few.html", num_pairs=10)
    data = stored((tmp_path / "few.html").read_text())
    assert len(data["samples"]) == len(data["pairs"]) == 10
    assert len(data["train"]) == len({row for pair in found.pairs[:10] for row in pair.nearest})


def test_keys_decide_move_and_undo(page):
    page.press("a", "r", "s", "ArrowRight", "a", "ArrowLeft", "ArrowLeft")
    assert (
        page.run("document.getElementById('tally').textContent")
        == "2 copies, 1 not copies, 1 skipped, 996 of 1000 left"
    )
    assert page.run("document.getElementById('where').textContent") == "Candidate 4 of 1000"
    page.press("u")
    assert page.run("document.getElementById('tally').textContent").startswith("1 copies")
    assert page.run("document.getElementById('where').textContent") == "Candidate 5 of 1000"
    page.press("n")
    assert page.run("document.getElementById('where').textContent") == "Candidate 6 of 1000"
    page.press("a", "ArrowLeft")
    assert page.run("document.getElementById('verdict').textContent") == "✓ copy"
    assert page.run("document.querySelector('[data-decide=accept]').ariaPressed") == "true"


def test_decisions_outlive_the_page(page, path):
    page.press("a", "a", "r")
    page.open(path.as_uri())
    assert (
        page.run("document.getElementById('tally').textContent")
        == "2 copies, 1 not copies, 0 skipped, 997 of 1000 left"
    )
    assert page.run("document.getElementById('where').textContent") == "Candidate 4 of 1000"


def export(page, folder):
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    page.press("e")
    for _ in range(200):
        files = list(folder.glob("decisions-*.json"))
        if files and files[0].stat().st_size:
            return files[0]
        time.sleep(0.05)
    raise AssertionError("nothing was exported")


def test_exported_decisions_are_read_back_here_and_there(page, found, tmp_path):
    page.press("a", "r", "s", "a")
    file = export(page, tmp_path)
    assert read_decisions(file, found) == {0: "accept", 1: "reject", 2: "skip", 3: "accept"}
    page.run("localStorage.clear(); decisions = {}; draw()")
    load(page, file)
    assert page.run("document.getElementById('tally').textContent").startswith("2 copies, 1 not copies, 1 skipped")
    foreign = tmp_path / "foreign.json"
    foreign.write_text(json.dumps({**json.loads(file.read_text()), "audit": "f" * 64}))
    load(page, foreign)
    assert "belongs to another audit" in page.run("document.getElementById('notice').textContent")


def load(page, file):
    node = page.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
    field = page.call("DOM.querySelector", nodeId=node, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=field, files=[str(file)])
    page.run("new Promise((done) => setTimeout(done, 200))")


def choose(page, field, value):
    script = f"field = document.getElementById('{field}'); field.value = '{value}'"
    page.run(f"(() => {{ const {script}; field.dispatchEvent(new Event('input')); }})()")


def test_filters_and_sorting_choose_the_pairs(page, found):
    choose(page, "stage-filter", "both")
    assert page.run("document.getElementById('where').textContent") == "Candidate 1 of 600"
    choose(page, "limit", "0.095")
    expected = sum(pair.flagged and pair.score <= 0.095 for pair in found.pairs)
    assert page.run("order.length") == expected
    choose(page, "sort", "score")
    assert page.run("order.every((v, i) => !i || pairs[order[i - 1]].score <= pairs[v].score)")
    choose(page, "status-filter", "open")
    page.run("document.activeElement.blur()")
    page.press("a", "a")
    assert page.run("order.length") == expected - 2
    assert page.run("Object.keys(decisions).length") == 2
    choose(page, "limit", "-1")
    assert page.run("getComputedStyle(document.getElementById('empty')).display") != "none"


def test_letters_typed_into_a_field_decide_nothing(page):
    page.run("document.getElementById('limit').focus()")
    page.press("a", "1")
    assert page.run("Object.keys(decisions).length") == 0


def test_a_thousand_pairs_stay_smooth(page):
    """Each key is answered within a frame of 60 a second, and the list holds only the rows in sight."""
    page.run("""
        window.took = [];
        addEventListener("keydown", () => { window.began = performance.now(); }, true);
        addEventListener("keydown", () => { took.push(performance.now() - began); });
    """)
    page.press(*["a", "ArrowRight", "r", "s"] * 60)
    assert page.run("took.length") == 240
    assert page.run("took.sort((a, b) => a - b)[120]") < 16
    assert page.run("document.querySelectorAll('.row').length") < 40
    page.run("document.getElementById('list').focus()")
    page.press("End")
    assert page.run("document.getElementById('where').textContent") == "Candidate 1000 of 1000"
    inside = """(() => { const list = document.getElementById("list").getBoundingClientRect();
        const row = document.querySelector("[aria-selected=true]").getBoundingClientRect();
        return row.top >= list.top - 1 && row.bottom <= list.bottom + 1; })()"""
    assert page.run(inside)


def test_blinking_shows_both_in_one_place_and_ends_with_the_key(page):
    before = page.run("document.getElementById('sample').src")
    page.press("b", release=False)
    assert (
        page.run("document.getElementById('sample').src") == page.run("document.getElementById('match').src") != before
    )
    page.call("Input.dispatchKeyEvent", type="keyUp", key="b", windowsVirtualKeyCode=66)
    assert page.run("document.getElementById('sample').src") == before
    page.press("d")
    assert not page.run("document.getElementById('difference').hidden")


def test_a_screen_reader_and_a_dark_room_are_thought_of(page):
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    named = {(node["role"]["value"], node.get("name", {}).get("value")) for node in nodes if "role" in node}
    assert ("listbox", "Candidates") in named
    assert {("button", "Copy A"), ("button", "Not a copy R"), ("button", "Skip S")} <= named
    assert all(name for role, name in named if role in ("button", "combobox", "spinbutton", "image", "option"))
    light = page.run("getComputedStyle(document.body).backgroundColor")
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.run("getComputedStyle(document.body).backgroundColor") != light
    page.call("Emulation.setEmulatedMedia", features=[])
    assert not page.run("document.documentElement.scrollWidth > innerWidth")
    assert page.run("document.querySelector('.keys').getBoundingClientRect().bottom <= innerHeight")
    requests = [event for event in page.events if event.get("method") == "Network.requestWillBeSent"]
    assert all(event["params"]["request"]["url"].startswith(("file:", "data:")) for event in requests)
