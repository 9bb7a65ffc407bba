"""The page: well-formed, self-contained, with the right images; and what a browser does with it."""

import base64
import io
import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from fake_runs import LITE0, emoji16, planted, write_run
from PIL import Image

from smoothscore.report import compare_runs, write_page
from smoothscore.report.charts import HEIGHT, WIDTH, Axis, Line, chart
from smoothscore.report.pictures import data_uris, side_within
from smoothscore.report.signs import Look, whisker

SEEDS, PAIRS = 20, 4


class Page(HTMLParser):
    """Tags must nest; keeps what a reader or a browser would load."""

    VOID = frozenset({"meta", "img", "br", "wbr", "link", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.links, self.ids, self.tags = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attrs)
        self.links += [attrs[key] for key in ("href", "src", "xlink:href") if key in attrs]
        self.ids += [attrs["id"]] if "id" in attrs else []

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def data():
    return emoji16()


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_run(folder / "conditioned", planted(data, 48, copies=30), extractor=LITE0, label="lite0"),
        write_run(folder / "a<script>&b", planted(data, 48, copies=9, seed=1), extractor=LITE0, label="lite0"),
    ]
    return compare_runs(runs)


@pytest.fixture(scope="module")
def path(comparison, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(comparison, path, num_seeds=SEEDS, num_pairs=PAIRS)
    return path


@pytest.fixture(scope="module")
def text(path):
    return path.read_text()


def decode_uri(uri: str) -> torch.Tensor:
    prefix = "data:image/png;base64,"
    assert uri.startswith(prefix)
    with Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(prefix)))) as image:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def test_page_is_well_formed_and_loads_nothing(text):
    page = Page(text)
    assert not re.search(r"https?://|//[a-z]|url\(|@import", re.sub(r"data:image/png;base64,[\w+/=]+", "", text))
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("script") == 1
    assert "a&lt;script&gt;&amp;b" in text


def test_page_holds_every_image_with_words_for_it(text, comparison, data):
    images = Page(text).images
    runs = 2
    assert len(images) == runs * (SEEDS + 2 * 3 * PAIRS)
    assert all(image["alt"] for image in images)
    samples = comparison.runs[0].run.samples.images
    for place, image in enumerate(images[:16]):
        expected = (samples[place].clamp(0, 1) * 255).round().to(torch.uint8)
        assert torch.equal(decode_uri(image["src"]), expected)
        assert image["alt"].startswith(f"conditioned, seed {place}, ratio {comparison.runs[0].pixels.ratio[place]:.2f}")
    matches = [image for image in images if "nearest: training image" in image["alt"]]
    assert len(matches) == runs * 2 * 2 * PAIRS
    for image in matches:
        row = int(re.search(r"training image (\d+)", image["alt"]).group(1))
        assert torch.equal(decode_uri(image["src"]), data.train.pixels[row])


def test_page_holds_the_figures_of_the_table(text, comparison):
    table = comparison.table
    for row in table.rows:
        for column in table.columns:
            if column.shown:
                assert column.text(row.values) in text
    for note in table.notes:
        assert note in text


def test_frames_are_those_of_the_ratio(text, comparison):
    cells = re.findall(r'<td data-zoom="column"(?: class="(\w+)")?><img[^>]*alt="conditioned, seed (\d+)', text)
    assert len(cells) == SEEDS
    for css, seed in cells:
        ratio = float(comparison.runs[0].pixels.ratio[int(seed)])
        assert css == ("copy" if ratio < 1 / 3 else "close" if ratio < 2 / 3 else "")


def test_columns_hold_one_seed_also_where_runs_start_at_different_seeds(tmp_path, data):
    samples = planted(data, 12, copies=6)
    runs = [write_run(tmp_path / "zero", samples), write_run(tmp_path / "seven", samples, first_seed=7)]
    write_page(compare_runs(runs), tmp_path / "report.html", num_seeds=9, num_pairs=1)
    alts = [image["alt"] for image in Page((tmp_path / "report.html").read_text()).images]
    assert [alt for alt in alts if alt.startswith("zero")] != []
    for name in ("zero", "seven"):
        assert [alt.split(", ")[1] for alt in alts if alt.startswith(name)] == [f"seed {s}" for s in range(7, 12)]
    apart = [runs[0], write_run(tmp_path / "hundred", samples, first_seed=100)]
    write_page(compare_runs(apart), tmp_path / "apart.html", num_seeds=9, num_pairs=1)
    assert "share no seed" in (tmp_path / "apart.html").read_text()


def test_large_images_shrink_into_the_budget(emoji):
    images = emoji[:40]
    full = data_uris(images, 32)
    assert torch.equal(decode_uri(full[0]), images[0])
    size = sum(map(len, full))
    assert side_within(images, 40, 2 * size) == 32
    side = side_within(images, 40, size // 3)
    assert 8 <= side < 32
    assert decode_uri(data_uris(images, side)[0]).shape == (3, side, side)
    assert sum(map(len, data_uris(images, side))) < 0.6 * size


def test_whiskers_stand_where_the_figures_are():
    svg = whisker(0.25, 0.125, 0.5, Look.of_run(0), reference=0.0, limit=0.5)
    assert 'cx="100.0"' in svg  # the middle of 6 … 194
    assert "M53.0 11H194.0" in svg
    assert '<path class="reference" d="M6.0 1V21"/>' in svg


def test_lines_go_through_their_points_and_break_at_nan():
    points = [(0.0, 0.0), (0.5, 1.0), (0.75, float("nan")), (1.0, 0.5)]
    svg = chart(
        "c", [Line("a<b", points, Look.of_run(1), marked=True)], Axis("x", limits=(0, 1)), Axis("y", limits=(0, 1))
    )
    left, right, bottom, top = 46, WIDTH - 10, HEIGHT - 42, 12
    middle = (left + right) / 2
    assert f'd="M{left}.0 {bottom}.0L{middle:.1f} {top}.0M{right}.0 {(bottom + top) / 2:.1f}"' in svg
    assert "a&lt;b" in svg
    assert "a<b" not in svg
    marked = chart(
        "c", [Line("a", [(0.0, 0.0), (1.0, 0.1)], Look.of_run(1))], Axis("x"), Axis("y", marks=((0.5, "m"),))
    )
    height = float(re.search(r'class="mark" d="M\d+ ([\d.]+)H', marked).group(1))
    assert top <= height < bottom
    assert chart("c", [Line("a", [], Look.of_run(1))], Axis("x"), Axis("y")) == ""


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not looked at in a browser")
    return found


FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync --window-size=1400,900"


def run_script(browser, text, folder, script):
    """What a script leaves in `result` when the page has loaded, with the page narrowed to that."""
    ending = 'document.body.innerHTML = "<pre id=result></pre>";'
    ending += 'document.getElementById("result").textContent = JSON.stringify(result);'
    page = folder / "page.html"
    page.write_text(
        text.replace("</body>", f"<script>addEventListener('load', () => {{{script}{ending}}});</script></body>")
    )
    flags = [*FLAGS.split(), f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    dump = subprocess.run([browser, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(unescape(re.search(r'<pre id="result">(.*?)</pre>', dump.stdout).group(1)))


def test_headings_sort_all_parts_in_a_browser(browser, text, comparison, tmp_path):
    """Better first, then turned round; held-out images stay last; the other parts follow."""
    script = """
      const names = (part) => [...part.tBodies[0].rows].map((row) => row.cells[0].innerText.trim());
      const parts = [...document.querySelectorAll("[data-sortable]")], result = {};
      for (const button of document.querySelectorAll("[data-sort]")) {
        const title = button.firstChild.textContent.trim() + parts.indexOf(button.closest("table"));
        button.click(); const once = names(parts[0]), sort = button.closest("th").ariaSort;
        button.click(); const twice = names(parts[0]);
        const alike = parts.every((part) => JSON.stringify(names(part)) === JSON.stringify(twice));
        const sorted = document.querySelectorAll("[aria-sort]").length;
        (result[title] ??= []).push({once, twice, sort, alike, sorted});
      }
    """
    result = run_script(browser, text, tmp_path, script)
    shown = [column for column in comparison.table.columns if column.shown]
    parts = list(dict.fromkeys(column.part for column in shown))
    asked = {}
    for column in shown:
        asked.setdefault(f"{column.title}{parts.index(column.part)}", []).append(column)
    assert set(result) == set(asked)
    control = comparison.table.rows[-1].name
    for title, columns in asked.items():
        assert len(result[title]) == len(columns)
    (found,), (column,) = result["< 1/30"], asked["< 1/30"]
    best = min(comparison.table.rows[:2], key=lambda row: row.values[column.key]).name
    assert found["once"][0] == best
    assert found["twice"][1] == best
    (found,) = result["mean0"]  # higher is better
    assert found["once"][0] == max(comparison.table.rows[:2], key=lambda row: row.values["mean_ratio"]).name
    assert found["sort"] == "descending"
    for entries in result.values():
        for found in entries:
            assert found["once"][-1] == found["twice"][-1] == control
            assert found["alike"]
            assert found["sorted"] == 1


def test_keys_move_and_enlarge_in_a_browser(browser, text, tmp_path):
    """Arrow keys walk through the cards; the panel shows what has the focus; Escape closes it."""
    script = """
      const seen = [], zoom = document.getElementById("zoom");
      const look = () => seen.push(zoom.hidden ? "" : zoom.innerText.replace(/\\s+/g, " ").trim());
      const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
      const card = document.querySelector(".pairs [tabindex='0']");
      look(); card.focus(); look(); press("ArrowRight"); look(); press("ArrowLeft"); look(); press("Escape"); look();
      document.querySelector(".seeds [tabindex='0']").focus(); press("ArrowDown"); look();
      const wide = document.documentElement.scrollWidth > innerWidth;
      const broken = [...document.images].filter((image) => image.naturalWidth !== 16).length;
      const stops = document.querySelectorAll("[data-zoom][tabindex='0']").length;
      const result = {seen, wide, broken, stops};
    """
    result = run_script(browser, text, tmp_path, script)
    first, second = re.findall(r'<p class="ratio">([\d.]+)', text)[:2]
    closed, opened, moved, back, escaped, column = result["seen"]
    assert closed == escaped == ""
    assert opened.startswith(f"Sample, ratio {first} Nearest, d₁ ")
    assert moved.startswith(f"Sample, ratio {second} Nearest, d₁ ")
    assert back == opened
    assert column == "conditioned a<script>&b"
    assert result["broken"] == 0
    assert not result["wide"]
    assert result["stops"] == 2 + 4  # blocks of seeds, then two spaces of two runs
