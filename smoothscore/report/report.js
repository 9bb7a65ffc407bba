"use strict";
// Enlarges what the pointer or the keyboard is on; the page is complete without it.
const zoom = document.getElementById("zoom");

// A heading sorts the runs of all parts of the table; controls stay below them.
for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th"), table = button.closest("table");
    const body = table.tBodies[0];
    const column = [...table.querySelectorAll("thead th:not(.name, .group)")].sort((a, b) => a.offsetLeft - b.offsetLeft).indexOf(heading) + 1;
    const again = heading.ariaSort === "ascending";
    const up = heading.ariaSort ? !again : button.dataset.sort === "low";
    for (const other of document.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
    heading.ariaSort = up ? "ascending" : "descending";
    const rows = [...body.rows].map((row, place) => ({ place, control: row.classList.contains("control-row"), text: row.cells[column].dataset.value }));
    const missing = (row) => row.text === "" || Number.isNaN(+row.text);
    rows.sort((a, b) => a.control - b.control || missing(a) - missing(b) || (missing(a) ? 0 : (up ? 1 : -1) * (a.text - b.text)) || a.place - b.place);
    for (const part of document.querySelectorAll("[data-sortable]")) part.tBodies[0].append(...rows.map((row) => part.tBodies[0].rows[row.place]));
  });
}

function pictures(item) {
  if (item.dataset.zoom === "pair") {
    const ratio = item.querySelector(".ratio").firstChild.textContent.trim();
    return [...item.querySelectorAll("figure")].map((figure, place) => ({
      image: figure.querySelector("img"),
      text: ["Sample, ratio " + ratio, "Nearest, ", "Second nearest, "][place] + (place ? figure.innerText.trim() : ""),
    }));
  }
  return [...item.closest("tbody").rows].map((row) => ({
    image: row.cells[item.cellIndex].querySelector("img"),
    text: row.cells[0].innerText.trim(),
  }));
}

function show(item) {
  zoom.replaceChildren(...pictures(item).filter((picture) => picture.image).map(({ image, text }) => {
    const figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = text;
    figure.append(image.cloneNode(), caption);
    return figure;
  }));
  zoom.style.setProperty("--count", zoom.children.length);
  zoom.hidden = false;
  // Beside what is enlarged, never on it; a whole column stands in the table, so beside the table.
  const rows = (item.closest("table") ?? item).getBoundingClientRect();
  const at = item.getBoundingClientRect(), box = zoom.getBoundingClientRect(), gap = 10;
  const left = Math.max(gap, Math.min(at.left + at.width / 2 - box.width / 2, innerWidth - box.width - gap));
  const top = rows.top - box.height - gap > 0 ? rows.top - box.height - gap : Math.min(rows.bottom + gap, innerHeight - box.height - gap);
  zoom.style.left = left + "px";
  zoom.style.top = Math.max(gap, top) + "px";
}

function hide() { zoom.hidden = true; }

const target = (event) => event.target.closest?.("[data-zoom]");
document.addEventListener("pointerover", (event) => { const item = target(event); item ? show(item) : hide(); });
document.addEventListener("focusin", (event) => { const item = target(event); item ? show(item) : hide(); });
document.addEventListener("focusout", hide);
addEventListener("scroll", hide, { passive: true });

// One tab stop for each group; arrow keys move inside it.
for (const group of document.querySelectorAll("[data-arrows]")) {
  const items = [...group.querySelectorAll("[data-zoom]")];
  items.forEach((item, place) => { item.tabIndex = place ? -1 : 0; });
  group.addEventListener("keydown", (event) => {
    const here = items.indexOf(document.activeElement);
    const below = items.findIndex((item) => item.offsetTop > items[0].offsetTop || item.closest("tr")?.rowIndex > items[0].closest("tr")?.rowIndex);
    const row = below < 0 ? items.length : below;
    const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: row, ArrowUp: -row };
    if (event.key === "Escape") hide();
    if (here < 0 || !(event.key in moves)) return;
    const next = items[here + moves[event.key]];
    if (!next) return;
    event.preventDefault();
    items[here].tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  });
}
