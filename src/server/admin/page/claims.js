// Owns link's claims: who holds a server-id, and whose grace runs. Must not know how events come.

import { ask } from "./api.js";
import { Table, byId, count, countDown, plural, size, text, write } from "./dom.js";
import { Pages, watchForm } from "./pages.js";

const PAGE = 50;
const section = byId("view-claims");

function grace(cell, claim) {
  if (claim.ends !== null) return countDown(cell, claim.ends);
  delete cell.dataset.ends;
  write(cell, "–");
}

const table = new Table(
  section.querySelector("table"),
  [
    { name: "Server-id", kind: "id", fill: text((claim) => claim.server_id) },
    { name: "State", kind: "short", fill: text((claim) => claim.state) },
    { name: "Grace left", kind: "number", fill: grace },
    { name: "Socket", kind: "number", fill: text((claim) => (claim.socket === null ? "–" : String(claim.socket))) },
    { name: "Phones", kind: "number", fill: text((claim) => count(claim.phones)) },
    { name: "Waiting", kind: "number", fill: text((claim) => size(claim.waiting_bytes)) },
    { name: "Generation", kind: "number", fill: text((claim) => count(claim.generation)) },
  ],
  (claim) => claim.server_id,
);
const pages = new Pages(section.querySelector(".pages"), refresh);

export async function refresh() {
  const query = new URLSearchParams({ prefix: byId("claim-prefix").value, limit: PAGE, cursor: pages.cursor });
  const { claims, cursor } = await ask("GET", `claims?${query}`);
  table.show(claims);
  pages.show(cursor);
  write(section.querySelector(".count"), claims.length ? `${plural(claims.length, "claim")} on page ${pages.number}` : "No claims.");
}

watchForm(section.querySelector("form"), () => pages.first());
