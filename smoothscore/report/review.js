"use strict";
// Decides on pairs. State: `decisions` (row of the sample → kind) and where one stands; everything shown follows from it.
const data = JSON.parse(document.getElementById("data").textContent);
const { pairs } = data;
const $ = (id) => document.getElementById(id);
const STORE = "smoothscore:" + data.audit;
const WORDS = { accept: "copy", reject: "not a copy", skip: "skipped" };
const SIGNS = { accept: "✓", reject: "✕", skip: "–" };
const ROW = 60, SPARE = 6;
const measures = { score: "pixel score", distance: "pixel distance", features: "feature ratio" };

let decisions = {};
let order = [];      // indexes of the pairs that pass the filters, sorted
let place = 0;       // where one stands in `order`
const undone = [];   // [index of the pair, decision before]

const format = (value) => value === null ? "–" : value.toFixed(3);
const decision = (index) => decisions[pairs[index].sample];
const current = () => order[place];

function notice(text) { $("notice").textContent = text; $("notice").hidden = !text; }

// Kept decisions

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(STORE) ?? "{}");
    decisions = known(kept.decisions ?? {});
    return kept.sample;
  } catch {
    notice("This browser keeps nothing between visits: export your decisions before you close the page.");
  }
}

function save() {
  try {
    localStorage.setItem(STORE, JSON.stringify({ decisions, sample: pairs[current()]?.sample }));
  } catch {
    notice("This browser keeps nothing between visits: export your decisions before you close the page.");
  }
}

function known(given) {
  const samples = new Set(pairs.map((pair) => String(pair.sample)));
  return Object.fromEntries(Object.entries(given).filter(([row, kind]) => samples.has(row) && kind in WORDS));
}

function download() {
  const content = { format: data.format, audit: data.audit, exported: new Date().toISOString(), decisions };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content, null, 1)], { type: "application/json" }));
  link.download = `decisions-${data.audit.slice(0, 8)}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

async function read(file) {
  try {
    const content = JSON.parse(await file.text());
    if (content.format !== data.format) throw new Error("it is no decisions file of this version");
    if (content.audit !== data.audit) throw new Error("it belongs to another audit");
    decisions = { ...decisions, ...known(content.decisions) };
    undone.length = 0;
    notice("");
    arrange();
    save();
  } catch (error) {
    notice(`${file.name} was not loaded: ${error.message}.`);
  }
}

// Filters

function arrange(keep = current()) {
  const stage = $("stage-filter").value, status = $("status-filter").value, measure = $("measure").value;
  const limit = $("limit").value === "" ? Infinity : Number($("limit").value);
  order = [...pairs.keys()].filter((index) => {
    const pair = pairs[index], made = decision(index);
    return (stage === "all" || pair.flagged === (stage === "both"))
      && (status === "all" || (status === "open" ? !made : made === status))
      && (limit === Infinity || (pair[measure] ?? Infinity) <= limit);
  });
  const by = $("sort").value; // the pairs come sorted by the most-copied image
  if (by !== "copied") order.sort((a, b) => (pairs[a][by] ?? Infinity) - (pairs[b][by] ?? Infinity) || a - b);
  const found = order.indexOf(keep);
  place = found < 0 ? Math.min(place, Math.max(0, order.length - 1)) : found;
  draw();
}

// What is shown

function draw() { drawPair(); drawTally(); reveal(); drawRows(); }

function drawPair() {
  const index = current(), none = index === undefined;
  $("pair").hidden = none;
  $("empty").hidden = !none;
  if (none) return;
  const pair = pairs[index], made = decision(index);
  $("where").textContent = `Candidate ${place + 1} of ${order.length}`;
  $("verdict").textContent = made ? `${SIGNS[made]} ${WORDS[made]}` : "";
  $("verdict").className = made ?? "";
  image($("sample"), data.samples[index], `Sample ${pair.name}`);
  image($("match"), data.train[pair.train], `Nearest training image, ${pair.names[0]}`);
  const [below, above] = $("difference").querySelectorAll("img");
  image(below, data.samples[index], "");
  image(above, data.train[pair.train], `Difference of sample ${pair.name} and its match`);
  caption($("sample-caption"), "Sample", pair.name + (pair.flipped ? ", mirrored" : ""));
  const repeats = pair.repeats > 1 ? `, ${pair.repeats} equal ones in the training set` : "";
  caption($("match-caption"), "Nearest training image", pair.names[0] + repeats);
  for (const button of document.querySelectorAll("[data-decide]")) {
    button.setAttribute("aria-pressed", String(button.dataset.decide === made));
  }
  const facts = [["Pixel score", format(pair.score)], ["Pixel distance", format(pair.distance)]];
  if (data.features) facts.push([`Feature ratio (${data.features})`, format(pair.features)]);
  facts.push(["Kept by", pair.flagged && data.features ? "both stages" : "pixels"]);
  $("measures").replaceChildren(...facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
  $("neighbors").replaceChildren(...pair.nearest.slice(1).map((row, next) => {
    const figure = element("figure"), frame = element("div"), picture = new Image();
    frame.className = "frame";
    image(picture, data.train[row], `Training image ${pair.names[next + 1]}`);
    frame.append(picture);
    figure.append(frame, element("figcaption", `${pair.names[next + 1]} · ${format(pair.distances[next + 1])}`));
    return figure;
  }));
}

function drawTally() {
  const counts = { accept: 0, reject: 0, skip: 0 };
  for (const kind of Object.values(decisions)) counts[kind] += 1;
  const open = pairs.length - counts.accept - counts.reject - counts.skip;
  $("tally").textContent = `${counts.accept} copies, ${counts.reject} not copies, ${counts.skip} skipped, ${open} of ${pairs.length} left`;
  const parts = document.querySelectorAll(".bar i");
  [counts.accept, counts.reject, counts.skip].forEach((count, part) => { parts[part].style.width = `${100 * count / pairs.length}%`; });
}

// Only the rows in sight exist, so that a thousand cost as little as ten.
function drawRows() {
  $("rows").style.height = `${order.length * ROW}px`;
  const first = Math.max(0, Math.floor($("list").scrollTop / ROW) - SPARE);
  const last = Math.min(order.length, Math.ceil(($("list").scrollTop + $("list").clientHeight) / ROW) + SPARE);
  const rows = [];
  for (let at = first; at < last; at += 1) rows.push(row(at));
  $("rows").replaceChildren(...rows);
  const selected = order.length ? `pair-${current()}` : "";
  selected ? $("list").setAttribute("aria-activedescendant", selected) : $("list").removeAttribute("aria-activedescendant");
}

function row(at) {
  const index = order[at], pair = pairs[index], made = decision(index);
  const line = element("div"), text = element("span"), mark = element("span", SIGNS[made] ?? "");
  const sample = new Image(), match = new Image();
  line.className = "row";
  line.id = `pair-${index}`;
  line.style.top = `${at * ROW}px`;
  line.dataset.at = at;
  for (const [name, value] of [["role", "option"], ["aria-selected", at === place], ["aria-posinset", at + 1], ["aria-setsize", order.length]]) {
    line.setAttribute(name, value);
  }
  image(sample, data.samples[index], "");
  image(match, data.train[pair.train], "");
  text.append(element("b", pair.name), element("small", `${format(pair.score)} · ${pair.names[0]}`));
  mark.className = `mark ${made ?? ""}`;
  if (made) { mark.setAttribute("role", "img"); mark.setAttribute("aria-label", WORDS[made]); }
  line.append(sample, match, text, mark);
  return line;
}

function reveal() {
  const list = $("list"), top = place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
}

function image(target, source, words) { target.src = source; target.alt = words; }
function element(name, text = "") { const made = document.createElement(name); made.textContent = text; return made; }
function caption(target, title, text) { target.replaceChildren(element("b", title), element("span", text)); }

// What a person does

function go(to) {
  if (!order.length) return;
  place = Math.max(0, Math.min(order.length - 1, to));
  draw();
  save();
}

function goOpen() {
  const rest = [...order.keys()].map((step) => (place + 1 + step) % order.length);
  const next = rest.find((at) => !decision(order[at]));
  if (next !== undefined) go(next);
}

function decide(kind) {
  const index = current();
  if (index === undefined) return;
  undone.push([index, decision(index)]);
  decisions[pairs[index].sample] = kind;
  const next = order[place + 1] ?? index;
  // Where decided pairs are filtered out, the next one comes to stand here by itself.
  if ($("status-filter").value === "all") go(place + 1); else { arrange(next); save(); }
}

function undo() {
  const last = undone.pop();
  if (!last) return;
  const [index, before] = last;
  if (before) decisions[pairs[index].sample] = before; else delete decisions[pairs[index].sample];
  arrange(index);
  save();
}

// Sample and match in one place, in turn: the eye sees every difference as a movement.
let blinking = null;
function blink(on) {
  if (on === Boolean(blinking) || (on && current() === undefined)) return;
  document.querySelector(".images").classList.toggle("blinking", on);
  const pair = pairs[current()], sources = [data.samples[current()], data.train[pair?.train]];
  if (on) {
    let turn = 0;
    const step = () => { turn = 1 - turn; $("sample").src = sources[turn]; $("match").src = sources[turn]; };
    step();
    blinking = setInterval(step, 250);
  } else {
    clearInterval(blinking);
    blinking = null;
    drawPair();
  }
}

const keys = {
  a: () => decide("accept"), r: () => decide("reject"), s: () => decide("skip"), u: undo, n: goOpen, e: download,
  d: () => { $("difference").hidden = !$("difference").hidden; }, b: () => blink(true),
  arrowright: () => go(place + 1), arrowleft: () => go(place - 1), j: () => go(place + 1), k: () => go(place - 1),
};
const listKeys = {
  arrowdown: () => go(place + 1), arrowup: () => go(place - 1), home: () => go(0), end: () => go(order.length - 1),
  pagedown: () => go(place + 10), pageup: () => go(place - 10),
};

addEventListener("keydown", (event) => {
  const key = event.key.toLowerCase(), inList = document.activeElement === $("list");
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches?.("input, select")) return;
  const act = keys[key] ?? (inList ? listKeys[key] : undefined);
  if (!act || (event.repeat && key === "b")) return;
  event.preventDefault();
  if (key !== "b") blink(false);
  act();
});
addEventListener("keyup", (event) => { if (event.key.toLowerCase() === "b") blink(false); });
addEventListener("blur", () => blink(false));
addEventListener("resize", drawRows);
$("list").addEventListener("scroll", drawRows, { passive: true });
$("list").addEventListener("click", (event) => {
  const line = event.target.closest(".row");
  if (line) go(Number(line.dataset.at));
});
for (const button of document.querySelectorAll("[data-decide]")) {
  button.addEventListener("click", () => decide(button.dataset.decide));
}
for (const id of ["stage-filter", "status-filter", "measure", "limit", "sort"]) $(id).addEventListener("input", () => arrange());
$("export").addEventListener("click", download);
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { const [file] = $("file").files; if (file) read(file); $("file").value = ""; });

const last = load();
arrange(pairs.findIndex((pair) => pair.sample === last));
