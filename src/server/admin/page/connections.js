// Owns the open sockets: which are shown, and closing one. Must not know how events come.

import { ask } from "./api.js";
import { act } from "./dialogs.js";
import { Table, button, byId, count, countUp, now, size, text, write } from "./dom.js";
import { Pages, attempt, watchForm } from "./pages.js";

const PAGE = 100;
const section = byId("view-connections");
const [role, filter] = [byId("connection-role"), byId("connection-filter")];

const name = ({ socket, address, id }) => `socket ${socket} (${id ? `${id}, ` : ""}${address})`;

const table = new Table(
  section.querySelector("table"),
  [
    { name: "Socket", kind: "number", fill: text((it) => String(it.socket)) },
    { name: "Address", kind: "address", fill: text((it) => it.address) },
    { name: "Role", kind: "short", fill: text((it) => it.role) },
    { name: "Id", kind: "id", fill: text((it) => it.id ?? "–") },
    { name: "Age", kind: "number", fill: (cell, it) => countUp(cell, now() - 1000 * it.age_seconds) },
    { name: "Unsent", kind: "number", fill: text((it) => size(it.unsent_bytes)) },
    { name: "", kind: "does", fill: button("Close", name, close, "danger") },
  ],
  (it) => String(it.socket),
);
const pages = new Pages(section.querySelector(".pages"), refresh);

export async function refresh() {
  const { connections } = await ask("GET", "connections");
  const wanted = filter.value.trim().toLowerCase();
  const fits = (it) =>
    (role.value === "" || it.role === role.value) && `${it.address}\n${it.id ?? ""}`.toLowerCase().includes(wanted);
  const found = connections.filter(fits);
  const from = Number(pages.cursor);
  const page = found.slice(from, from + PAGE);
  table.show(page);
  pages.show(from + PAGE < found.length ? String(from + PAGE) : null);
  const all = found.length === connections.length ? "" : ` of ${count(connections.length)}`;
  const where = found.length > PAGE ? `, page ${pages.number}` : "";
  write(section.querySelector(".count"), found.length ? `${count(found.length)}${all} ${found.length === 1 && !all ? "connection" : "connections"}${where}` : "No connections.");
}

watchForm(section.querySelector("form"), () => pages.first());

async function close(connection) {
  const of = connection.id ? `the socket of ${connection.id}` : "this socket";
  const done = await act(
    { title: `Close ${name(connection)}`, text: `Closes ${of}. Its client may connect again.`, yes: "Close socket", danger: true },
    async () => {
      await ask("DELETE", `connections/${connection.socket}`);
      return `Closed: ${name(connection)}.`;
    },
  );
  if (done) await attempt(refresh);
}
