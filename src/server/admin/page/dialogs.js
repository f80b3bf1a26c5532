// Owns questions before something is done, and telling what came of it. Must not know what is done.

import { byId, write } from "./dom.js";

/** Asks whether to go on; where `word` is given it has to be typed. */
export function confirm({ title, text, yes, word, danger = false }) {
  const dialog = byId("confirm");
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
    field.addEventListener("input", check, { signal });
    byId("confirm-no").addEventListener("click", () => dialog.close(), { signal });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!go.disabled) dialog.close("yes");
    }, { signal });
    dialog.addEventListener("close", () => {
      settle.abort();
      resolve(dialog.returnValue === "yes");
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
