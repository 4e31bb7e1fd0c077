// The review page: pictures of issues, decisions by keys and clicks, kept in the browser, and their download.

const cards = [...document.querySelectorAll(".issue")];
const decisions = new Map(); // number of an issue → action
const KEYS = {k: "keep", t: "take", i: "ignore", d: "drop"};
const storageKey = "review " + data.list + " " + data.issues.map((issue) => issue.id + issue.image).join(" ");
let current = 0;
let latest = null;

function tell(trouble) {
  const place = document.getElementById("trouble");
  place.textContent = trouble;
  place.hidden = !trouble;
}

// A browser may refuse to keep anything, for a file or in a private window: then decisions live as long as the page.
function keep() {
  try {
    localStorage.setItem(storageKey, JSON.stringify([...decisions]));
  } catch {
    tell("This browser keeps nothing for this page: download the decisions before you close it.");
  }
}

function recall() {
  try {
    for (const [id, action] of JSON.parse(localStorage.getItem(storageKey) || "[]")) decisions.set(id, action);
  } catch {
    decisions.clear();
  }
}

const outlines = {label: [240, 228, 66], predicted: [86, 180, 233]};

async function draw(card) {
  const issue = data.issues[card.dataset.place];
  const box = card.querySelector(".panels");
  if (box.children.length) return;
  const names = ["image", "label", "prediction", "where they differ"];
  const canvases = names.map((name) => addPanel(box, name, issue.size));
  const [image, label, predicted, region] = await Promise.all(
    [issue.image_data, issue.label, issue.predicted, issue.region].map(pixels));
  paintImage(canvases[0], image);
  paintOutlines(canvases[1], image, label, outlines.label);
  paintOutlines(canvases[2], image, predicted, outlines.predicted);
  paintErrors(canvases[3], image, predicted, (i) => label.data[i], (i) => region.data[i]);
  frame(canvases[3], region);
  box.dataset.drawn = "yes";
}

// A dotted frame around the pixels that a decision changes.
function frame(canvas, region) {
  let left = region.width, top = region.height, right = -1, bottom = -1;
  for (let i = 0; i < region.data.length; i += 4) {
    if (!region.data[i]) continue;
    const x = (i / 4) % region.width, y = Math.floor(i / 4 / region.width);
    left = Math.min(left, x);
    right = Math.max(right, x);
    top = Math.min(top, y);
    bottom = Math.max(bottom, y);
  }
  if (right < 0) return;
  const context = canvas.getContext("2d");
  context.strokeStyle = "#fff";
  context.setLineDash([2, 3]);
  context.strokeRect(left - 1.5, top - 1.5, right - left + 4, bottom - top + 4);
}

function visible() {
  return cards.filter((card) => !card.hidden);
}

function show(card, scroll = true) {
  if (!card) return;
  for (const other of cards) other.classList.toggle("current", other === card);
  current = cards.indexOf(card);
  draw(card);
  if (scroll) card.scrollIntoView({block: "nearest"});
}

function move(step) {
  const shown = visible();
  const place = shown.indexOf(cards[current]);
  show(shown[Math.min(Math.max(place + step, 0), shown.length - 1)]);
}

function decide(card, action) {
  const issue = data.issues[card.dataset.place];
  if (action === null) decisions.delete(issue.id);
  else decisions.set(issue.id, action);
  keep();
  update();
}

// Take a decision back: the card's own, else the one that a key made last and moved on from.
function undo(card) {
  const undone = decisions.has(data.issues[card.dataset.place].id) ? card : latest;
  if (!undone) return;
  decide(undone, null);
  filter();
  show(undone);
}

function update() {
  const dropped = new Set(data.issues.filter((issue) => decisions.get(issue.id) === "drop").map((issue) => issue.image));
  for (const card of cards) {
    const issue = data.issues[card.dataset.place];
    const action = decisions.get(issue.id);
    card.classList.toggle("gone", dropped.has(issue.image) && action !== "drop");
    for (const button of card.querySelectorAll("[data-action]")) {
      button.setAttribute("aria-pressed", String(button.dataset.action === action));
    }
  }
  const counts = Object.values(KEYS).map((action) => [action, [...decisions.values()].filter((each) => each === action).length]);
  const parts = counts.filter(([, count]) => count).map(([action, count]) => `${count} ${action}`);
  document.getElementById("progress").value = decisions.size;
  document.getElementById("decided").textContent =
    `${decisions.size} of ${cards.length} decided` + (parts.length ? `: ${parts.join(", ")}` : "");
  document.getElementById("download").disabled = !decisions.size;
}

function filter() {
  const kind = document.getElementById("kind").value;
  const open = document.getElementById("open-only").checked;
  for (const card of cards) {
    const decided = decisions.has(data.issues[card.dataset.place].id);
    card.hidden = (kind !== "" && card.dataset.kind !== kind) || (open && decided);
  }
  const shown = visible();
  document.getElementById("shown").textContent = `${shown.length} shown`;
  if (cards.length && cards[current].hidden) show(shown[0], false);
}

// What apply_decisions.py reads.
function content() {
  const decided = data.issues.filter((issue) => decisions.has(issue.id));
  return {list: data.list, issues: decided.map((issue) => ({image: issue.image, id: issue.id, action: decisions.get(issue.id)}))};
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(content(), null, 2) + "\n"], {type: "application/json"}));
  link.download = "decisions.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function upload(file) {
  try {
    const given = JSON.parse(await file.text());
    const known = new Map(data.issues.map((issue) => [issue.id, issue.image]));
    const fits = given.list === data.list &&
      given.issues.every((row) => known.get(row.id) === row.image && Object.values(KEYS).includes(row.action));
    if (!fits) throw new Error("they are about other issues");
    for (const row of given.issues) decisions.set(row.id, row.action);
    tell("");
    keep();
    update();
    filter();
  } catch (error) {
    tell(`${file.name} holds no decisions on these issues: ${error.message}`);
  }
}

document.getElementById("issues").addEventListener("click", (event) => {
  const card = event.target.closest(".issue");
  if (!card) return;
  show(card, false);
  const button = event.target.closest("[data-action]");
  if (!button) return;
  const same = button.getAttribute("aria-pressed") === "true";
  decide(card, same ? null : button.dataset.action);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  const card = cards[current];
  const action = KEYS[event.key.toLowerCase()];
  if (event.key === "ArrowDown" || event.key === "ArrowUp") move(event.key === "ArrowDown" ? 1 : -1);
  else if (!card || card.hidden) return;
  else if (action) {
    decide(card, action);
    latest = card;
    move(1);
  } else if (event.key.toLowerCase() === "u") undo(card);
  else return;
  event.preventDefault();
});

document.getElementById("kind").addEventListener("change", filter);
document.getElementById("open-only").addEventListener("change", filter);
document.getElementById("download").addEventListener("click", download);
document.getElementById("upload").addEventListener("change", async (event) => {
  if (event.target.files[0]) await upload(event.target.files[0]);
  event.target.value = ""; // the same file, mended meanwhile, may be chosen again
});
document.getElementById("clear").addEventListener("click", () => {
  if (!decisions.size || !confirm(`Forget all ${decisions.size} decisions?`)) return;
  decisions.clear();
  keep();
  update();
  filter();
});

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    watcher.unobserve(entry.target);
    draw(entry.target);
  }
}, {rootMargin: "400px"});
for (const card of cards) watcher.observe(card);
window.addEventListener("beforeprint", () => cards.forEach(draw));

recall();
update();
filter();
show(cards[0], false);
