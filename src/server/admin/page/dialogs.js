// Owns questions before something is done, and telling what came of it. Must not know what is done.

import { byId, write } from "./dom.js";

/** Ends the question that is asked, whose close may not have been told yet. */
let settleLast = () => {};

/** Asks whether to go on; where `word` is given it has to be typed. */
export function confirm({ title, text, yes, word, danger = false }) {
  const dialog = byId("confirm");
  settleLast(dialog.returnValue === "yes");
  const [form, field, go] = [dialog.querySelector("form"), byId("confirm-word"), byId("confirm-yes")];
  write(byId("confirm-title"), title);
  write(byId("confirm-text"), text);
  write(go, yes);
  go.className = danger ? "danger" : "main";
  byId("confirm-type").hidden = !word;
  write(dialog.querySelector("label"), `Type “${word ?? ""}” to go on`);
  field.value = "";
  const check = () => (go.disabled = Boolean(word) && field.value.trim() !== word);
  check();
  dialog.returnValue = "";
  dialog.showModal();
  (word ? field : go).focus();
  return new Promise((resolve) => {
    const settle = new AbortController();
    const { signal } = settle;
    settleLast = (agreed) => {
      settle.abort();
      resolve(agreed);
    };
    field.addEventListener("input", check, { signal });
    byId("confirm-no").addEventListener("click", () => dialog.close(), { signal });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!go.disabled) dialog.close("yes");
    }, { signal });
    dialog.addEventListener("close", () => {
      // Told late, of the question before.
      if (!dialog.open) settleLast(dialog.returnValue === "yes");
    }, { signal });
  });
}

export function tell(text) {
  show(text, "");
}

export function fail(text) {
  show("", text);
}

function show(told, failed) {
  write(byId("told"), told);
  write(byId("failed"), failed);
  byId("dismiss").hidden = !told && !failed;
}

byId("dismiss").addEventListener("click", () => show("", ""));

/** Asks, does it, and tells the outcome; whether it was done. */
export async function act(question, work) {
  if (!(await confirm(question))) return false;
  show("", "");
  try {
    tell(await work());
    return true;
  } catch (error) {
    fail(`${question.title}: ${error.message}`);
    return false;
  }
}
