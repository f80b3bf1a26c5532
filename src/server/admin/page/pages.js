// Owns going from page to page and filtering. Must not know what is on a page.

import { fail } from "./dialogs.js";
import { element } from "./dom.js";

/** Milliseconds without a key after which what was typed is looked for. */
const TYPED = 250;

export class Pages {
  /** The cursors of the pages up to this one. */
  #cursors = [""];
  #next = null;
  #load;
  #buttons;

  constructor(parent, load) {
    this.#load = load;
    const button = (label, press) => {
      const made = element("button", { type: "button" }, label);
      made.addEventListener("click", press);
      return made;
    };
    this.#buttons = [
      button("First", () => this.first()),
      button("Previous", () => this.#go(() => this.#cursors.pop())),
      button("Next", () => this.#go(() => this.#cursors.push(this.#next))),
    ];
    parent.append(...this.#buttons);
  }

  get cursor() {
    return this.#cursors.at(-1);
  }

  get number() {
    return this.#cursors.length;
  }

  first() {
    return this.#go(() => (this.#cursors = [""]));
  }

  async #go(turn) {
    turn();
    await attempt(this.#load);
  }

  /** The page is there; `next` is where the one behind it begins. */
  show(next) {
    this.#next = next ?? null;
    const [first, previous, following] = this.#buttons;
    first.disabled = previous.disabled = this.number === 1;
    following.disabled = this.#next === null;
    first.parentElement.hidden = this.number === 1 && this.#next === null;
  }
}

/** Loads a view; what fails is told. */
export async function attempt(load) {
  try {
    await load();
  } catch (error) {
    fail(error.message);
  }
}

/** Runs `find` when the form is sent or a field of it has changed. */
export function watchForm(form, find) {
  let timer;
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    find();
  });
  const changed = () => {
    clearTimeout(timer);
    timer = setTimeout(find, TYPED);
  };
  form.addEventListener("input", changed);
  form.addEventListener("change", changed);
}
