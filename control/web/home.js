// The first page: a room, its tokens, and the ways in. A dev link fills it: `/#room=demo&publish=TOKEN&view=TOKEN`
// or `/#token=TOKEN`, whose role and room are read from the token itself.
//
// For tests: window.spillway = {state: "idle", errors: [], room, roles: [roles of the tokens at hand], start(way)}.

import { $, formatViewers, keepToken, keptToken, readToken, setText, takeFragment, wireCopy } from "./common.js";

const room = $("#room");
const fields = { publish: $("#publish-token"), view: $("#view-token") };
const hints = { publish: $("#publish-hint"), view: $("#view-hint") };

const fragment = takeFragment();
const single = fragment.get("token") ?? "";
const named = fragment.get("room") ?? readToken(single || fragment.get("publish") || fragment.get("view"))?.room;
if (named) room.value = named;

for (const role of ["publish", "view"]) fields[role].value = fragment.get(role) ?? keptToken(role, room.value);
const singleRole = readToken(single)?.role;
if (single && singleRole !== "view") fields.publish.value = single;
if (single && singleRole !== "publish") fields.view.value = single;

function hintOf(role, token) {
  if (!token) return "";
  const claims = readToken(token);
  if (!claims) return "This does not look like a token.";
  if (claims.room && claims.room !== room.value) return `This token is for the room “${claims.room}”.`;
  if (claims.role && claims.role !== role && claims.role !== "admin") {
    return claims.role === "view" ? "This is a view token: it opens Watch." : "This is a publish token: it opens Publish.";
  }
  if (claims.expiresAt && claims.expiresAt < Date.now()) return `This token ended at ${new Date(claims.expiresAt).toLocaleString()}.`;
  if (claims.expiresAt) {
    const end = new Date(claims.expiresAt);
    const today = end.toDateString() === new Date().toDateString();
    return `Valid until ${today ? end.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : end.toLocaleString([], { dateStyle: "medium", timeStyle: "short" })}`;
  }
  return "";
}

function render() {
  for (const role of ["publish", "view"]) {
    const token = fields[role].value.trim();
    const hint = hintOf(role, token);
    setText(hints[role], hint);
    hints[role].classList.toggle("warn", hint !== "" && !hint.startsWith("Valid"));
    keepToken(role, room.value, token);
  }
  const name = room.value || "demo";
  setText($("#obs-server"), `${location.origin}/whip/${encodeURIComponent(name)}`);
  const token = fields.publish.value.trim();
  setText($("#obs-token"), token ? "•".repeat(24) : "a publish token, see above");
  $("#obs-token").classList.toggle("empty", !token);
  $("#copy-token").disabled = !token;
  setText($("#synthetic"), `spillway publish synthetic ${name}`);
  setText($("#play"), `spillway play ${name} --seconds 5 --json`);
}

function go(way) {
  const publish = fields.publish.value.trim();
  const view = fields.view.value.trim();
  const token = way === "publish" ? publish : view;
  const parts = new URLSearchParams();
  if (token) parts.set("token", token);
  // The publish page puts it into the link it offers for sharing.
  if (way === "publish" && view) parts.set("view", view);
  const rest = parts.toString();
  location.assign(`/${way}/${encodeURIComponent(room.value.trim())}${rest ? `#${rest}` : ""}`);
}

// A token belongs to its room: another name starts with the tokens kept for that one.
room.addEventListener("change", () => {
  for (const role of ["publish", "view"]) {
    const kept = keptToken(role, room.value);
    if (kept) fields[role].value = kept;
  }
  render();
});
for (const role of ["publish", "view"]) fields[role].addEventListener("input", render);
$("#open").addEventListener("submit", (event) => {
  event.preventDefault();
  go(event.submitter?.value ?? "publish");
});
// Enter in a field takes the way of that field, not the form's first button.
fields.view.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  go("watch");
});

wireCopy($("#copy-server"), () => $("#obs-server").textContent);
wireCopy($("#copy-token"), () => fields.publish.value.trim());
wireCopy($("#copy-synthetic"), () => $("#synthetic").textContent);
wireCopy($("#copy-play"), () => $("#play").textContent);
render();

// ---------------------------------------------------------------- live rooms

const LOBBY_MS = 5000;

/** Who may see which rooms are live: everybody where the node says so, else who has a right to it. */
async function liveRooms() {
  const answer = async (path, token) => {
    const response = await fetch(path, { cache: "no-store", headers: token ? { Authorization: `Bearer ${token}` } : {} });
    return response.ok ? response.json() : null;
  };
  const lobby = await answer("/v1/lobby");
  if (lobby?.public) return lobby.data.map(({ id, viewers }) => ({ id, viewers }));
  const rights = [keptToken("operator", ""), fields.publish.value.trim(), fields.view.value.trim()];
  const token = rights.find((text) => text && (text === rights[0] || readToken(text)?.role === "admin"));
  const streams = token ? await answer("/v1/streams?limit=200", token) : null;
  return streams ? streams.data.filter(({ live }) => live).map(({ room: id, viewers }) => ({ id, viewers })) : null;
}

async function lobby() {
  let rooms = null;
  try {
    rooms = await liveRooms();
  } catch {
    // Nobody answers just now; the list comes back with the server.
  }
  $("#lobby").hidden = !rooms?.length;
  const links = (rooms ?? []).map(({ id, viewers }) => {
    const link = document.createElement("a");
    link.href = `/watch/${encodeURIComponent(id)}`;
    link.append(Object.assign(document.createElement("b"), { textContent: id }), Object.assign(document.createElement("span"), { className: "hint", textContent: formatViewers(viewers) }));
    const item = document.createElement("li");
    item.append(link);
    return item;
  });
  // A list that is the same stays: somebody may be about to press it.
  if ($("#lobby-rooms").textContent !== links.map((link) => link.textContent).join("")) $("#lobby-rooms").replaceChildren(...links);
  setText($("#lobby-count"), links.length === 1 ? "one room" : `${links.length} rooms`);
  setTimeout(lobby, LOBBY_MS);
}
lobby();

window.spillway = {
  state: "idle",
  errors: [],
  get room() { return room.value; },
  get roles() { return ["publish", "view"].filter((role) => fields[role].value.trim()); },
  start: go,
};
