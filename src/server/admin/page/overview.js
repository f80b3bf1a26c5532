// Owns the overview: rates, the daemon's work, what is held, sweeps, and what is done to the daemon as a whole. Must not know
// how events come.

import { ask, download } from "./api.js";
import { Chart } from "./charts.js";
import { act } from "./dialogs.js";
import { byId, clock, count, countDown, duration, element, facts, now, plural, size, write } from "./dom.js";

const SWEEPS_SHOWN = 50;
const KINDS = {
  relay: "relay",
  registration: "registration",
  peer: "peer",
  turn_session: "TURN session",
  server: "server",
  claim: "claim",
  chunk: "chunk",
};

const perSecond = (rate) => `${rate < 10 && rate % 1 ? rate.toFixed(1) : count(Math.round(rate))}/s`;
const percent = (part) => `${(100 * part).toFixed(part < 0.1 ? 1 : 0)} %`;
const millis = (seconds) => `${(1000 * seconds).toFixed(seconds < 0.01 ? 1 : 0)} ms`;

const [dialects, works] = [byId("dialects"), byId("works")];
const charts = {
  signalling: new Chart(dialects, "Signalling messages", perSecond),
  link: new Chart(dialects, "Link frames", perSecond),
  bootstrap: new Chart(dialects, "Bootstrap requests", perSecond),
  directory: new Chart(dialects, "Directory requests", perSecond),
  sockets: new Chart(works, "Sockets", count),
  unsent: new Chart(works, "Unsent", size, { least: 1024 }),
  busy: new Chart(works, "Writer busy", percent, { least: 0.1 }),
  queue: new Chart(works, "Writer queue", count),
  store: new Chart(works, "Store", size, { least: 1024 }),
  flush: new Chart(works, "Flush p50 / p99", millis, { series: 2, least: 0.005 }),
};

let before = null;

/** The increase a second since the status before; null without one of the same run. */
function rate(status, of) {
  if (!before || before.boot !== status.boot || status.now <= before.now) return null;
  return ((of(status) - of(before)) * 1000) / (status.now - before.now);
}

export function status(status) {
  const { leases, connections, engine, live } = status;
  const at = status.now / 1000;
  const notes = {
    signalling: `${plural(leases.relay, "relay")} · ${plural(leases.registration, "registration")}`,
    link: `${plural(connections.binaries, "binary", "binaries")} · ${plural(connections.phones, "phone")} · ${plural(leases.claim, "claim")}`,
    bootstrap: `${plural(leases.peer, "peer")} · ${plural(leases.turn_session, "TURN session")}`,
    directory: plural(leases.server, "server"),
  };
  for (const dialect of Object.keys(notes)) {
    charts[dialect].add(at, [rate(status, (it) => it.handled[dialect])], notes[dialect]);
  }
  charts.sockets.add(at, [connections.open], `${plural(connections.addresses, "address", "addresses")} · ${plural(connections.ids, "id")}`);
  charts.unsent.add(at, [connections.unsent_bytes], "not yet taken by clients");
  charts.busy.add(at, [rate(status, (it) => it.engine.writer_busy_seconds)], `${plural(engine.requests, "request")} since the start`);
  charts.queue.add(at, [engine.queue], `${plural(engine.overloaded, "request")} refused as overload`);
  rows = `${plural(status.store.rows, "row")} written or removed`;
  write(byId("daemon"), `Version ${status.version} · schema ${status.schema} · up ${duration(status.uptime_seconds)} · start number ${count(status.boot)} · ${status.server_id}`);
  facts(byId("held"), [
    ["Points", count(leases.points)],
    ["Tokens", count(leases.tokens)],
    ["Dead drops", size(leases.dead_drop_bytes)],
    ["Chunks cached", count(leases.chunk)],
    ["Chunks announced", count(live.chunk_sources)],
    ["Chunks awaited", count(live.chunk_requests)],
    ["Channel subscriptions", count(live.subscriptions)],
    ["Pairing codes", count(live.pairing_codes)],
    ["Pair requests", count(live.pair_requests)],
    ["Link requests", count(live.link_requests)],
    ["Device links", count(live.device_links)],
    ["Undecodable rows", count(status.store.undecodable_rows)],
    ["Swept since the start", count(engine.swept)],
    ["Next lease ends in", status.next_expiry ? (target) => countDown(target, status.next_expiry) : "–"],
  ]);
  before = status;
}

let rows = "";

export function store(event) {
  if (!before) return;
  const at = before.now / 1000;
  charts.store.add(at, [event.bytes_on_disk], rows);
  charts.flush.add(at, [event.flush_p50_seconds, event.flush_p99_seconds], `${plural(event.flushes, "flush", "flushes")} in the last second`);
}

function told(swept) {
  const parts = Object.entries(KINDS).filter(([kind]) => swept[kind] > 0);
  return parts.map(([kind, name]) => plural(swept[kind], name)).join(", ");
}

/** What the topmost line of the sweeps tells: those of one second share it. */
let top = { time: null };

export function swept(event) {
  const [list, time] = [byId("sweeps"), clock(now())];
  if (top.time !== time) {
    top = { time, counts: {}, line: element("span") };
    list.prepend(element("li", {}, element("time", {}, time), top.line));
  }
  for (const kind of Object.keys(KINDS)) top.counts[kind] = (top.counts[kind] ?? 0) + event[kind];
  write(top.line, told(top.counts));
  while (list.children.length > SWEEPS_SHOWN) list.lastChild.remove();
  byId("no-sweeps").hidden = true;
}

byId("sweep").addEventListener("click", () =>
  act(
    { title: "Sweep now", text: "Ends every lease whose time is up, without waiting for the sweeper.", yes: "Sweep" },
    async () => `Swept: ${told(await ask("POST", "sweep")) || "nothing had ended"}.`,
  ),
);

byId("backup").addEventListener("click", () =>
  act(
    { title: "Back up now", text: "Downloads all leases and the server's key in one file. Keep it as safe as the data directory.", yes: "Back up" },
    async () => {
      const stamp = new Date(now()).toISOString().slice(0, 19).replace(/[-:]/g, "");
      const name = `waypost-${stamp}Z.backup`;
      return `Backed up: ${name}, ${size(await download("backup", name))}.`;
    },
  ),
);

byId("drain").addEventListener("click", () =>
  act(
    { title: "Drain", text: "Answers what is in flight, closes every socket and ends the daemon. It comes back only if something starts it again.", yes: "Drain and end", word: "drain", danger: true },
    async () => {
      await ask("POST", "drain");
      return "Draining: the daemon ends.";
    },
  ),
);
