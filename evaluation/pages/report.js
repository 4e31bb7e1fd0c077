// The report: thumbnails, large views, sorting, filters and thresholds.

const chosen = data.runs.map(() => null); // the threshold of each run in steps of 1 / levels; null: its own

// What run `r` predicts of an image, as a function of the place of a pixel.
async function prediction(pictures, r) {
  const run = data.runs[r];
  const map = await pixels(pictures.maps[r]);
  if (run.classes > 1) return {map, at: (i) => map.data[i]};
  if (chosen[r] === null && pictures.masks[r]) {
    const mask = await pixels(pictures.masks[r]);
    return {map, at: (i) => mask.data[i]};
  }
  const least = chosen[r] === null ? run.threshold * data.levels : chosen[r];
  return {map, at: (i) => (map.data[i] >= least ? 1 : 0)};
}

async function drawThumbnail(canvas, pictures) {
  const r = pictures.maps.findIndex((map) => map);
  const [image, label] = await Promise.all([pixels(pictures.image), pixels(pictures.label)]);
  paintErrors(canvas, image, label, (await prediction(pictures, r)).at);
}

// Image, label, and of each run its scores and errors, into a box; drawn again when a threshold moves.
async function drawPanels(box) {
  const pictures = data.images[box.dataset.image];
  if (!pictures) {
    box.textContent = "A page of so many images has no picture of this one.";
    return;
  }
  const shown = data.runs.map((run, r) => r).filter((r) => pictures.maps[r]);
  if (!box.children.length) {  // before anything is decoded, so that nothing moves when it is drawn
    const names = ["image", "label"];
    for (const r of shown) {
      const name = data.runs.length > 1 ? ` of ${data.runs[r].name}` : "";
      names.push((data.runs[r].classes > 1 ? "prediction" : "score") + name, "errors" + name);
    }
    for (const name of names) addPanel(box, name, pictures.size);
  }
  const canvases = box.querySelectorAll("canvas");
  const [image, label] = await Promise.all([pixels(pictures.image), pixels(pictures.label)]);
  if (!box.dataset.drawn) {
    paintImage(canvases[0], image);
    paintClasses(canvases[1], label, data.runs[shown[0]].classes);
  }
  const thresholds = chosen.map((value) => value ?? "own").join(" ");
  for (const [place, r] of shown.entries()) {
    const found = await prediction(pictures, r);
    if (data.runs[r].classes > 1) paintClasses(canvases[2 + 2 * place], found.map, data.runs[r].classes);
    else paintScores(canvases[2 + 2 * place], found.map);
    paintErrors(canvases[3 + 2 * place], image, label, found.at);
  }
  box.dataset.drawn = thresholds;
}

const table = document.getElementById("table");
const rows = [...table.tBodies[0].rows];

// Thumbnails have their place from the start, so that no row moves below a click, and are drawn when they come into view.
const thumbnails = new Map();
const watcher = new IntersectionObserver((entries) => {
  for (const {target: canvas} of entries.filter((each) => each.isIntersecting)) {
    watcher.unobserve(canvas);
    const place = canvas.closest("tr").dataset.image;
    thumbnails.set(place, canvas);
    drawThumbnail(canvas, data.images[place]);
  }
}, {rootMargin: "200px"});
for (const row of rows.filter((each) => data.images[each.dataset.image])) {
  const canvas = document.createElement("canvas");
  row.cells[0].append(canvas);
  watcher.observe(canvas);
}

function detailOf(row) {
  const next = row.nextElementSibling;
  return next && next.classList.contains("detail") ? next : null;
}

function toggle(row) {
  const open = detailOf(row);
  row.querySelector("button.open").setAttribute("aria-expanded", String(!open));
  if (open) {
    open.remove();
    return;
  }
  const detail = document.createElement("tr");
  detail.className = "detail";
  const cell = detail.insertCell();
  cell.colSpan = row.cells.length;
  const box = document.createElement("div");
  box.className = "panels";
  box.dataset.image = row.dataset.image;
  cell.append(box);
  row.after(detail);
  drawPanels(box);
}

table.addEventListener("click", (event) => {
  const sort = event.target.closest("button[data-sort]");
  const row = event.target.closest("tr[data-image]");
  if (sort) sortBy(sort);
  else if (row && event.target.closest("button.open, .thumb")) toggle(row);
});

// Numbers upwards first; images whose number is undefined come last either way.
function sortBy(button) {
  const head = button.closest("th");
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
  const byName = button.dataset.sort === "name";
  const key = (row) => {
    if (byName) return row.cells[1].textContent;
    const value = row.cells[2 + Number(button.dataset.sort)].dataset.value;
    return value === "" ? null : Number(value);
  };
  const names = new Intl.Collator(undefined, {numeric: true});
  const order = rows.map((row) => [key(row), row]).sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return direction * (byName ? names.compare(a, b) : a - b);
  });
  for (const [, row] of order) {
    const detail = detailOf(row);
    table.tBodies[0].append(row);
    if (detail) row.after(detail);
  }
}

function applyFilter() {
  const text = document.getElementById("filter-name").value.toLowerCase();
  const most = document.getElementById("filter-most").value;
  const columns = data.runs.length > 1 ? data.runs.length : 1;
  let count = 0;
  for (const row of rows) {
    const values = [...row.cells].slice(2, 2 + columns).map((cell) => cell.dataset.value).filter((value) => value !== "");
    const low = most === "" || values.some((value) => Number(value) <= Number(most));
    const keep = low && row.cells[1].textContent.toLowerCase().includes(text);
    row.hidden = !keep;
    const detail = detailOf(row);
    if (detail) detail.hidden = !keep;
    count += keep;
  }
  document.getElementById("shown").textContent = `${count} of ${rows.length} images`;
}
document.getElementById("filter-name").addEventListener("input", applyFilter);
document.getElementById("filter-most").addEventListener("input", applyFilter);

let waiting = false;

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    document.querySelectorAll(".panels").forEach(drawPanels);
    for (const [place, canvas] of thumbnails) drawThumbnail(canvas, data.images[place]);
  });
}

// The threshold in words, with what it means for all images together.
function describe(r) {
  const run = data.runs[r];
  if (chosen[r] === null) return `${run.threshold.toFixed(4)}, this run's own`;
  const [tp, fp, fn] = ["tp", "fp", "fn"].map((name) => run.counts[name][chosen[r]]);
  const part = (a, b) => (b ? (a / b).toFixed(3) : "–");
  const without = run.offset ? ", outlines not moved" : "";
  return `${(chosen[r] / data.levels).toFixed(3)}: IoU of all ${part(tp, tp + fp + fn)}, ` +
    `precision ${part(tp, tp + fp)}, sensitivity ${part(tp, tp + fn)}${without}`;
}

for (const controls of document.querySelectorAll(".threshold")) {
  const r = Number(controls.dataset.run);
  const slider = controls.querySelector("input"), said = controls.querySelector("output");
  const back = controls.querySelector("button");
  const set = (value) => {
    chosen[r] = value;
    if (value === null) slider.value = Math.round(data.runs[r].threshold * data.levels);
    back.hidden = value === null;
    said.textContent = describe(r);
    redraw();
  };
  slider.addEventListener("input", () => set(Number(slider.value)));
  back.addEventListener("click", () => set(null));
  set(null);
}

document.querySelectorAll(".panels").forEach(drawPanels);
