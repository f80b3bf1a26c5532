// Owns the leases: a page of them, one by itself, and ending one. Must not know how events come.

import { ask } from "./api.js";
import { act, fail } from "./dialogs.js";
import { Table, button, byId, countDown, date, facts, plural, text, write } from "./dom.js";
import { Pages, watchForm } from "./pages.js";

const PAGE = 50;
const section = byId("view-leases");
const [kind, prefix] = [byId("lease-kind"), byId("lease-prefix")];

/** Times of a record as dates. */
const readable = (field, value) => (/(At|End|lastSeen)$/.test(field) && value > 0 ? date(value) : value);

/** The time left of a lease, or that it ends with its holder. */
function left(target, lease) {
  if (lease.ends !== null) return countDown(target, lease.ends);
  delete target.dataset.ends;
  write(target, "with its holder");
}

const name = (lease) => `${lease.kind} ${lease.key}`;
const path = (lease) => `leases/${encodeURIComponent(lease.kind)}/${encodeURIComponent(lease.key)}`;

const table = new Table(
  section.querySelector("table"),
  [
    { name: "Kind", kind: "short", fill: text((lease) => lease.kind) },
    { name: "Key", kind: "id", fill: text((lease) => lease.key) },
    { name: "Peer", kind: "id", fill: text((lease) => lease.peer_id) },
    { name: "Ends in", kind: "number", fill: left },
    { name: "", kind: "does", fill: button("Details", name, show) },
  ],
  name,
);
const pages = new Pages(section.querySelector(".pages"), refresh);

export async function refresh() {
  const query = new URLSearchParams({ kind: kind.value, prefix: prefix.value, limit: PAGE, cursor: pages.cursor });
  const { leases, cursor } = await ask("GET", `leases?${query}`);
  table.show(leases);
  pages.show(cursor);
  write(section.querySelector(".count"), leases.length ? `${plural(leases.length, "lease")} on page ${pages.number}` : "No leases.");
}

watchForm(section.querySelector("form"), () => pages.first());

let shown = null;

async function show(lease) {
  try {
    shown = await ask("GET", path(lease));
  } catch (error) {
    return fail(`${name(lease)}: ${error.message}`);
  }
  write(byId("detail-title"), name(shown));
  facts(byId("detail-facts"), [
    ["Peer", shown.peer_id],
    ["Ends in", (target) => left(target, shown)],
    ["Ends at", shown.ends === null ? "–" : date(shown.ends)],
    ["Indexed at", shown.indexed === 0 ? "with its holder" : date(shown.indexed)],
  ]);
  write(byId("detail-record"), JSON.stringify(shown.record, readable, 2));
  byId("detail").showModal();
}

byId("detail-close").addEventListener("click", () => byId("detail").close());

byId("detail-end").addEventListener("click", async () => {
  byId("detail").close();
  const lease = shown;
  const done = await act(
    { title: `End ${name(lease)}`, text: `This lease of ${lease.peer_id} ends now, as if its time were up.`, yes: "End lease", danger: true },
    async () => {
      await ask("DELETE", path(lease));
      return `Ended: ${name(lease)}.`;
    },
  );
  if (done) await refresh();
});
