// Owns logging in and out, which view is shown, the stream of events with its way back, and the theme. Must not know what a
// view shows.

import { Failure, ask, listen, takeFromAddress, token } from "./api.js";
import * as claims from "./claims.js";
import * as connections from "./connections.js";
import { byId, duration, setNow, write } from "./dom.js";
import * as leases from "./leases.js";
import * as overview from "./overview.js";
import { attempt } from "./pages.js";

const VIEWS = ["overview", "leases", "connections", "claims"];
const LOADS = { leases: leases.refresh, connections: connections.refresh, claims: claims.refresh };
/** Milliseconds after which sockets and claims are looked at again. */
const AGAIN = 5000;
const [FIRST_WAIT, LONGEST_WAIT] = [1000, 15_000];

/** Ends what belongs to the token that is logged in with; null while nobody is. */
let session = null;

function view() {
  const named = location.hash.slice(1);
  return VIEWS.includes(named) ? named : "overview";
}

function show() {
  byId("nav").hidden = byId("log-out").hidden = !session;
  byId("view-log-in").hidden = Boolean(session);
  for (const name of VIEWS) byId(`view-${name}`).hidden = !session || name !== view();
  for (const link of byId("nav").children) {
    link.ariaCurrent = link.hash === `#${view()}` ? "page" : null;
  }
  document.title = session ? `${byId(`view-${view()}`).querySelector("h2").textContent} · waypost` : "Log in · waypost";
  if (session) load();
}

async function load() {
  const found = LOADS[view()];
  if (found) await attempt(found);
}

function state(text, kind = "") {
  write(byId("state"), text);
  byId("state").className = kind;
}

function logOut(why) {
  session?.abort();
  session = null;
  token.forget();
  state("");
  document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  show();
  write(byId("token-error"), why);
  byId("token").focus();
}

/** Tries the token that is kept. */
async function logIn() {
  session?.abort();
  session = null;
  try {
    await ask("GET", "status");
  } catch (error) {
    if (error.status === 401) return logOut(error.message);
    // Its answer is not no; the stream goes on asking.
  }
  write(byId("token-error"), "");
  byId("token").value = "";
  session = new AbortController();
  show();
  follow(session.signal);
}

const HEAR = {
  status(event) {
    setNow(event.now);
    overview.status(event);
    if (event.ready) state("Ready", "good");
    else state("Not ready: the storage is unavailable, writes are refused", "bad");
  },
  store: overview.store,
  swept(event) {
    overview.swept(event);
    if (view() === "leases") load();
  },
};

/** Hears events for as long as it is logged in, and finds its way back when the stream ends. */
async function follow(signal) {
  let wait = FIRST_WAIT;
  state("Connecting…");
  while (!signal.aborted) {
    let [why, heard] = ["The stream ended.", false];
    try {
      await listen((name, event) => {
        if (!heard && wait > FIRST_WAIT) load();
        [heard, wait] = [true, FIRST_WAIT];
        HEAR[name]?.(event);
      }, signal);
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Failure)) throw error;
      if (error.status === 401) return logOut("The token is not accepted any more.");
      why = error.message;
    }
    // Not all pages at once.
    const rest = wait * (0.75 + Math.random() / 2);
    state(`${why.replace(/\.?$/, ".")} Trying again in ${duration(Math.ceil(rest / 1000))}.`, "bad");
    wait = Math.min(2 * wait, LONGEST_WAIT);
    await new Promise((resolve) => setTimeout(resolve, rest));
  }
}

setInterval(() => {
  const changing = view() === "connections" || view() === "claims";
  // Where the stream is gone, that is told already.
  if (session && changing && !document.hidden && byId("state").className === "good") load();
}, AGAIN);

byId("view-log-in").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  token.set(byId("token").value.trim());
  logIn();
});
byId("log-out").addEventListener("click", () => {
  token.forget();
  // So that nothing of what was shown is left in the page.
  location.reload();
});

window.addEventListener("hashchange", () => {
  if (takeFromAddress()) return logIn();
  show();
  if (!session) return;
  byId(`view-${view()}`).querySelector("h2").focus({ preventScroll: true });
  scrollTo(0, 0);
});

const theme = byId("theme");
function paint() {
  document.documentElement.dataset.theme = theme.value;
}
theme.value = localStorage.getItem("waypost.theme") ?? "";
theme.addEventListener("change", () => {
  localStorage.setItem("waypost.theme", theme.value);
  paint();
});
paint();

if (takeFromAddress() || token.get()) logIn();
else show();
