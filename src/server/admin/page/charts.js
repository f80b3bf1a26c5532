// Owns lines over the last five minutes. Must not know what they mean.

import { element, write } from "./dom.js";

const SPAN = 300;
const [WIDTH, HEIGHT] = [300, 40];
/** Seconds between two values past which the line breaks. */
const GAP = 5;

function svg(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  return made;
}

/** A card with a title, the value now, the highest of five minutes, and a line for each series. */
export class Chart {
  #values = [];
  #lines;
  #now = element("span", { className: "now" }, "–");
  #most = element("span", { className: "most" });
  #notes = element("p", { className: "notes" });
  #format;
  #least;

  /** `least` is the lowest top of the scale. */
  constructor(parent, title, format, { series = 1, least = 1 } = {}) {
    this.#format = format;
    this.#least = least;
    this.#lines = Array.from({ length: series }, (_, number) => svg("path", { class: `line line-${number}` }));
    const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    drawn.append(svg("path", { class: "base", d: `M0 ${HEIGHT - 0.5}H${WIDTH}` }), ...this.#lines);
    const figures = element("div", { className: "figures" }, this.#now, this.#most);
    parent.append(element("article", { className: "card" }, element("h4", {}, title), figures, drawn, this.#notes));
  }

  /** Values at a time in seconds, one for each series; null = there is none. */
  add(at, values, notes = "") {
    this.#values.push({ at, values });
    while (this.#values[0].at <= at - SPAN || this.#values[0].at > at) this.#values.shift();
    const known = this.#values.flatMap(({ values }) => values).filter((value) => value !== null);
    const top = Math.max(this.#least, ...known);
    const last = values.map((value) => (value === null ? "–" : this.#format(value)));
    write(this.#now, last.join(" / "));
    write(this.#most, known.length ? `max ${this.#format(Math.max(...known))}` : "");
    write(this.#notes, notes);
    this.#lines.forEach((line, number) => line.setAttribute("d", this.#path(at, top, number)));
  }

  #path(now, top, number) {
    let [path, before] = ["", null];
    for (const { at, values } of this.#values) {
      const value = values[number];
      if (value === null) continue;
      const x = WIDTH - ((now - at) / SPAN) * WIDTH;
      const y = HEIGHT - 1 - (value / top) * (HEIGHT - 3);
      const point = `${x.toFixed(1)} ${y.toFixed(1)}`;
      // A line of no length is the dot of a value that stands alone.
      path += before === null || at - before > GAP ? `M${point}h0` : `L${point}`;
      before = at;
    }
    return path;
  }
}
