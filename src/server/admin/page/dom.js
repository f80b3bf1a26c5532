// Owns elements, tables and how values are written. Strings become text here and nowhere markup. Must not know what is shown.

export const byId = (id) => document.getElementById(id);

export function element(name, fields = {}, ...children) {
  const made = Object.assign(document.createElement(name), fields);
  made.append(...children);
  return made;
}

/** Leaves what is right alone, so that nothing is announced or redrawn for nothing. */
export function write(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

// The daemon's time, as far as it has told; leases end by it.
let told = { now: Date.now(), at: performance.now() };
export const setNow = (now) => (told = { now, at: performance.now() });
export const now = () => told.now + performance.now() - told.at;

/** The two largest units of a time in seconds; hours go on counting past a day. As `waypost status` writes it. */
export function duration(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${whole % 60}s`;
  return `${Math.floor(whole / 3600)}h ${Math.floor((whole % 3600) / 60)}m`;
}

export function size(bytes) {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  const [unit, by] = bytes < 2 ** 20 ? ["KiB", 2 ** 10] : bytes < 2 ** 30 ? ["MiB", 2 ** 20] : ["GiB", 2 ** 30];
  return `${(bytes / by).toFixed(1)} ${unit}`;
}

export const count = (number) => number.toLocaleString("en");
export const plural = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;
export const clock = (millis) => new Date(millis).toLocaleTimeString("en-GB");
export const date = (millis) => `${new Date(millis).toLocaleDateString("sv")} ${clock(millis)}`;

/** What goes on by itself: time left until an end, or gone by since a beginning. */
export function countDown(target, ends) {
  target.dataset.ends = ends;
  tick(target);
}

export function countUp(target, since) {
  target.dataset.since ??= since;
  tick(target);
}

function tick(target) {
  const { ends, since } = target.dataset;
  if (since !== undefined) return write(target, duration((now() - since) / 1000));
  const left = ends - now();
  write(target, left <= 0 ? "ended" : duration(Math.ceil(left / 1000)));
}

setInterval(() => document.querySelectorAll("[data-ends], [data-since]").forEach(tick), 500);

/** Terms and what they are; the same terms keep their elements. */
export function facts(list, entries) {
  const known = new Map([...list.children].map((entry) => [entry.firstChild.textContent, entry]));
  for (const [term, value] of entries) {
    let entry = known.get(term);
    if (!entry) list.append((entry = element("div", {}, element("dt", {}, term), element("dd"))));
    known.delete(term);
    if (typeof value === "function") value(entry.lastChild);
    else write(entry.lastChild, value);
  }
  known.forEach((entry) => entry.remove());
}

/** A table whose rows stay the same elements while their items do, so that focus stays where it is. */
export class Table {
  #body = element("tbody", { role: "rowgroup" });
  #columns;
  #keyOf;

  /** Columns are `{ name, fill(cell, item), kind }`; kind is a class, such as "number". */
  constructor(table, columns, keyOf) {
    this.#columns = columns;
    this.#keyOf = keyOf;
    const heads = columns.map(({ name, kind = "" }) => element("th", { scope: "col", className: kind, role: "columnheader", ariaLabel: name || "Actions" }, name));
    table.setAttribute("role", "table");
    table.append(element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)), this.#body);
  }

  show(items) {
    const known = new Map([...this.#body.children].map((row) => [row.dataset.key, row]));
    items.forEach((item, place) => {
      const key = this.#keyOf(item);
      const row = known.get(key) ?? this.#row(key);
      known.delete(key);
      row.item = item;
      this.#columns.forEach(({ fill }, column) => fill(row.children[column], item));
      if (this.#body.children[place] !== row) this.#body.insertBefore(row, this.#body.children[place] ?? null);
    });
    known.forEach((row) => row.remove());
    this.#body.parentElement.hidden = items.length === 0;
  }

  #row(key) {
    const row = element("tr", { role: "row" });
    row.dataset.key = key;
    for (const { name, kind = "" } of this.#columns) {
      const cell = element("td", { className: kind, role: "cell" });
      cell.dataset.name = name;
      row.append(cell);
    }
    return row;
  }
}

/** A column's text. */
export const text = (of) => (cell, item) => write(cell, of(item));

/** A column with a button, which says for what it is. */
export const button = (label, of, press, kind = "") => (cell, item) => {
  if (!cell.firstChild) {
    const made = element("button", { type: "button", className: kind }, label);
    made.addEventListener("click", () => press(cell.parentElement.item, made));
    cell.append(made);
  }
  cell.firstChild.ariaLabel = `${label} ${of(item)}`;
};
