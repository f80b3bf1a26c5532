// Owns the token and every request to the daemon. Must not know what is shown.

const KEY = "waypost.token";
/** Milliseconds without a byte, keep-alive comments included, after which a stream counts as lost. */
const SILENCE = 20_000;

export class Failure extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (text) => sessionStorage.setItem(KEY, text),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Takes the token out of the address bar, where `waypost admin url` has put it; whether there was one. */
export function takeFromAddress() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given === null) return false;
  history.replaceState(null, "", location.pathname);
  token.set(given);
  return true;
}

async function request(method, path, signal) {
  const shown = token.get() ?? "";
  // No other token can be sent as a header, so none is right.
  if (!/^[\x21-\x7e]+$/.test(shown)) throw new Failure("This token is not accepted.", "unauthorized", 401);
  let answer;
  try {
    const headers = { Authorization: `Bearer ${shown}` };
    answer = await fetch(`api/${path}`, { method, headers, signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The daemon does not answer.", "unreachable", 0);
  }
  if (answer.ok) return answer;
  if (answer.status === 401) throw new Failure("This token is not accepted.", "unauthorized", 401);
  const body = await answer.json().catch(() => ({}));
  throw new Failure(body.error ?? `The daemon answered with status ${answer.status}.`, body.code, answer.status);
}

export async function ask(method, path) {
  const answer = await request(method, path);
  const text = await answer.text();
  return text === "" ? null : JSON.parse(text);
}

/** Posts, and saves what comes back as a file; its size. */
export async function download(path, name) {
  const answer = await request("POST", path);
  const blob = await answer.blob().catch(() => {
    throw new Failure("The download broke off.", "unreachable", 0);
  });
  const link = document.createElement("a");
  link.download = name;
  link.href = URL.createObjectURL(blob);
  link.click();
  // The browser fetches it in its own time.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  return blob.size;
}

/** Hears events until the stream ends. EventSource is of no use: it sends no Authorization. */
export async function listen(hear, signal) {
  const answer = await request("GET", "events", signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await within(SILENCE, reader);
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const fields = new Map(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
      if (fields.has("data")) hear(fields.get("event"), JSON.parse(fields.get("data")));
    }
  }
}

async function within(time, reader) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Failure("The daemon has gone silent.", "silent", 0)), time);
  });
  try {
    return await Promise.race([reader.read(), late]);
  } catch (error) {
    reader.cancel().catch(() => {});
    if (error instanceof Failure || error.name === "AbortError") throw error;
    throw new Failure("The connection broke.", "unreachable", 0);
  } finally {
    clearTimeout(timer);
  }
}
