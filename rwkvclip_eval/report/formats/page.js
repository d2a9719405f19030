"use strict";
// The page is whole without this: it sorts, filters and copies.

const MANY_ROWS = 10;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text) made.textContent = text;
  if (tag === "button") made.type = "button";
  return made;
}

// Numbers before words; what has none comes last either way.
function keyOf(row, column) {
  const cell = row.cells[column];
  const text = (cell.querySelector(column ? ".v" : ".t") || cell).textContent.trim();
  const number = column ? Number.parseFloat(text) : NaN;
  return column ? number : text;
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, "en", { numeric: true });
  if (Number.isNaN(a) || Number.isNaN(b)) return NaN;
  return a - b;
}

function sortBy(table, body, original, head, column) {
  // Numbers begin with the largest, names with the first.
  const orders = column ? ["descending", "ascending", "none"] : ["ascending", "descending", "none"];
  const order = orders[(orders.indexOf(head.ariaSort) + 1) % 3];
  for (const other of table.querySelectorAll("thead [aria-sort]")) other.ariaSort = "none";
  head.ariaSort = order;
  table.classList.toggle("sorted", order !== "none");
  const sign = order === "descending" ? -1 : 1;
  const keyed = original.map((row, place) => ({ row, place, key: keyOf(row, column) }));
  if (order !== "none") {
    keyed.sort((a, b) => {
      const found = compare(a.key, b.key);
      if (Number.isNaN(found)) return Number.isNaN(a.key) - Number.isNaN(b.key) || a.place - b.place;
      return sign * found || a.place - b.place;
    });
  }
  body.append(...keyed.map(({ row }) => row));
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  if (original.length < 2) return;
  for (const head of table.querySelectorAll("thead th[data-c]")) {
    const label = head.querySelector(".t");
    const button = element("button", "sort");
    label.replaceWith(button);
    button.append(label);
    head.ariaSort = "none";
    button.addEventListener("click", () => sortBy(table, body, original, head, Number(head.dataset.c)));
  }
}

function makeFilterable(box, table) {
  // A row of differences goes with the one above it.
  const rows = [...table.tBodies].filter((body) => !body.classList.contains("averages")).flatMap((body) => [...body.rows]);
  const counted = rows.filter((row) => !row.classList.contains("delta"));
  if (counted.length <= MANY_ROWS) return;
  const tools = element("p", "tools");
  const label = element("label", "", `Filter ${counted.length} rows`);
  const input = element("input", "");
  input.type = "search";
  input.autocomplete = "off";
  const said = element("output", "");
  label.append(input);
  tools.append(label, said);
  if (box.classList.contains("screen")) tools.classList.add("screen");
  box.before(tools);
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    let shown = 0;
    let last = true;
    for (const row of rows) {
      if (!row.classList.contains("delta")) {
        last = !wanted || row.cells[0].textContent.toLowerCase().includes(wanted);
        shown += last;
      }
      row.hidden = !last;
    }
    said.value = wanted ? `${shown} of ${counted.length}` : "";
  });
}

async function copy(button, code) {
  try {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "copied";
  } catch {
    // Where the browser keeps the clipboard to itself, the reader copies what is selected.
    code.classList.add("whole");
    getSelection().selectAllChildren(code);
    button.textContent = "selected";
  }
  setTimeout(() => { button.textContent = "copy"; }, 1500);
}

for (const table of document.querySelectorAll("table.grid")) makeSortable(table);
for (const box of document.querySelectorAll(".scroll:not(.paper)")) {
  const table = box.querySelector(":scope > table:not(.facts-table)");
  if (table) makeFilterable(box, table);
}
for (const code of document.querySelectorAll(".hash")) {
  const button = element("button", "copy", "copy");
  button.setAttribute("aria-label", `Copy ${code.textContent.slice(0, 8)}…`);
  code.after(button);
  button.addEventListener("click", () => copy(button, code));
}
