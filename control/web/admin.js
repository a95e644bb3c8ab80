// The admin page: a client of the public API and nothing else. It asks for a key or a token, keeps it in this tab, asks
// for what the open section shows, and draws it (admin-views.js).
//
// For tests: window.spillway = {state, errors: [], view, refresh(), data: what the API answered last, by name}.

import { $, Backoff, EventParser, Problem, announce, formatBitrate, formatRatio, keepToken, keptToken, readToken, setText, takeFragment, wireCopy } from "./common.js";
import { Chart } from "./chart.js";
import * as views from "./admin-views.js";

const POLL_MS = 2000;
const PAGE = 200;
const VIEWERS_MAX = 1000;
const LOG_MAX = 300;
const NAMES = ["overview", "streams", "recordings", "viewers", "attempts", "keys", "webhooks", "limits", "events"];
/** What a room's admin token opens. */
const ROOM_VIEWS = ["streams", "recordings", "viewers", "events"];

let credential = "";
let open = NAMES;
let view = "";
let timer = 0;
let turn = 0;
let deliveriesOf = null;
const data = {};
const errors = [];

const fragment = takeFragment();
const given = fragment.get("token") ?? fragment.get("view") ?? "";

// ---------------------------------------------------------------- the API

async function ask(method, path, body, headers = {}) {
  let response;
  try {
    response = await fetch(path, {
      method,
      cache: "no-store",
      headers: { Authorization: `Bearer ${credential}`, Accept: "application/json", ...(body ? { "Content-Type": "application/json" } : {}), ...headers },
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch {
    throw new Problem();
  }
  if (!response.ok) throw await Problem.from(response);
  const text = await response.text();
  return { body: text ? JSON.parse(text) : null, etag: response.headers.get("ETag") };
}

const get = async (path) => (await ask("GET", path)).body;

/** A list over its pages, at most `most`. */
async function list(path, most = PAGE) {
  const all = [];
  let after = "";
  for (;;) {
    const page = await get(`${path}?limit=${PAGE}${after ? `&after=${encodeURIComponent(after)}` : ""}`);
    all.push(...page.data);
    if (!page.has_more || !page.next_cursor || all.length >= most) return { all, hasMore: page.has_more };
    after = page.next_cursor;
  }
}

const words = (problem) => (problem.status ? `${problem.title}: ${problem.detail}` : "The server cannot be reached; trying again.");

function trouble(text) {
  $("#trouble").hidden = !text;
  setText($("#trouble"), text ?? "");
}

/** Does something, says it, and shows what it came to. */
async function doing(said, work) {
  try {
    await work();
    announce(said);
    trouble("");
    await refresh();
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    await refresh();
    // Last: what went wrong stays to be read.
    trouble(words(problem));
  }
}

function showSecret(title, secret) {
  setText($("#secret-title"), title);
  setText($("#secret-text"), secret);
  $("#secret").showModal();
}

const part = encodeURIComponent;
const act = {
  endStream: (id) => doing("The stream was ended", () => ask("POST", `/v1/streams/${part(id)}/end`)),
  record: (room) => doing("The room is recorded", () => ask("POST", `/v1/rooms/${part(room)}/recordings`)),
  stopRecording: (id) => doing("The recording was stopped", () => ask("POST", `/v1/recordings/${part(id)}/stop`)),
  deleteRecording: (id) => doing("The recording was deleted", () => ask("DELETE", `/v1/recordings/${part(id)}`)),
  keyframe: (id) => doing("A keyframe was asked for", async () => {
    const { result } = (await ask("POST", `/v1/streams/${part(id)}/keyframe`)).body ?? {};
    if (result && !["asked", "pending"].includes(result)) throw new Problem({ status: 200, title: "No keyframe", detail: result });
  }),
  kick: (id) => doing("The viewer was sent away", () => ask("POST", `/v1/viewers/${part(id)}/kick`)),
  revokeKey: (id) => doing("The key was revoked", () => ask("DELETE", `/v1/keys/${part(id)}`)),
  rotateKey: (id) => doing("The key has another secret", async () => {
    showSecret("The key’s new secret", (await ask("POST", `/v1/keys/${part(id)}/rotate`)).body.secret);
  }),
  testWebhook: (id) => doing("A test was sent", async () => {
    const { body } = await ask("POST", `/v1/webhooks/${part(id)}/test`);
    if (!body.delivered) throw new Problem({ status: 200, title: "Not delivered", detail: body.error ?? `answered with ${body.status}` });
  }),
  switchWebhook: (id, enabled) => doing(enabled ? "Switched on" : "Switched off", () => ask("PATCH", `/v1/webhooks/${part(id)}`, { enabled })),
  deleteWebhook: (id) => doing("The webhook was deleted", async () => {
    await ask("DELETE", `/v1/webhooks/${part(id)}`);
    if (deliveriesOf?.id === id) deliveriesOf = null;
  }),
  showDeliveries: (hook) => {
    deliveriesOf = hook;
    return refresh();
  },
  retryDelivery: (hook, id) => doing("It is sent again", () => ask("POST", `/v1/webhooks/${part(hook)}/deliveries/${part(id)}/retry`)),
};

// ---------------------------------------------------------------- charts

const charts = [];
function drawCharts(history) {
  if (charts.length === 0) {
    charts.push(
      new Chart($("#chart-viewers"), { valueOf: (point) => point.viewers, words: views.formatCount, least: 5 }),
      new Chart($("#chart-egress"), { valueOf: (point) => point.egress_bps, words: formatBitrate, least: 1e6 }),
      new Chart($("#chart-busy"), { valueOf: (point) => point.busy_ratio, words: formatRatio, top: 1 }),
    );
  }
  const points = history.points.map((point) => ({ ...point, time: Date.parse(point.at) }));
  // By the server's clock: this machine's may be another.
  const now = points.at(-1)?.time ?? Date.now();
  for (const chart of charts) chart.draw(points, history.interval_seconds * 1000, now);
}

// ---------------------------------------------------------------- sections

const sections = {
  async overview() {
    const [node, limits, history, streams] = await Promise.all([get("/v1/node"), get("/v1/limits"), get("/v1/node/history"), list("/v1/streams")]);
    Object.assign(data, { node, limits, history, streams: streams.all });
    views.drawOverview({ node, limits, points: history.points, streams: streams.all });
    drawCharts(history);
    setText($("#node-name"), node.id);
    count("streams", node.streams);
    count("viewers", node.used.viewers);
  },
  async streams() {
    data.streams = (await list("/v1/streams", VIEWERS_MAX)).all;
    views.drawStreams(data.streams, Date.now(), act);
    count("streams", data.streams.filter((stream) => stream.live).length);
  },
  async recordings() {
    data.recordings = (await list("/v1/recordings")).all;
    views.drawRecordings(data.recordings, Date.now(), act);
    count("recordings", data.recordings.filter((recording) => recording.state !== "finished").length);
  },
  async viewers() {
    const { all, hasMore } = await list("/v1/viewers", VIEWERS_MAX);
    Object.assign(data, { viewers: all, hasMore });
    drawViewers();
    count("viewers", hasMore ? null : all.length);
  },
  async attempts() {
    data.attempts = (await list("/v1/attempts")).all;
    views.drawAttempts(data.attempts, Date.now());
  },
  async keys() {
    data.keys = (await list("/v1/keys", VIEWERS_MAX)).all;
    views.drawKeys(data.keys, Date.now(), act);
  },
  async webhooks() {
    data.webhooks = (await list("/v1/webhooks", VIEWERS_MAX)).all;
    views.drawWebhooks(data.webhooks, Date.now(), act);
    const asked = deliveriesOf;
    data.deliveries = asked ? (await get(`/v1/webhooks/${part(asked.id)}/deliveries?limit=50`)).data : [];
    views.drawDeliveries(asked, data.deliveries, Date.now(), act);
  },
  async limits() {
    const { body, etag } = await ask("GET", "/v1/limits");
    Object.assign(data, { limits: body, limitsTag: etag });
    views.drawLimits(body);
  },
  async events() {},
};

const drawViewers = () => views.drawViewers({ viewers: data.viewers ?? [], hasMore: data.hasMore }, $("#search").value.trim(), Date.now(), act);

function count(name, value) {
  const tab = $(`#tabs a[href="#${name}"]`);
  let badge = tab.querySelector(".count");
  if (!badge) tab.append((badge = views.make("span", { class: "count" })));
  badge.hidden = !value;
  setText(badge, value ? views.formatCount(value) : "");
}

function line(up) {
  $("#line").className = `line-state ${up ? "up" : "down"}`;
  setText($("#line"), up ? "Connected" : "No connection");
}

async function refresh() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    await sections[view]?.();
    line(true);
    if ($("#trouble").textContent === words(new Problem())) trouble("");
  } catch (problem) {
    if (!(problem instanceof Problem)) {
      errors.push(String(problem));
      throw problem;
    }
    line(problem.status !== 0);
    if (problem.status === 401) return leave(words(problem));
    trouble(words(problem));
  } finally {
    // Of two that overlap the later one goes on.
    if (mine === turn && credential) timer = setTimeout(() => (document.hidden ? wait() : refresh()), POLL_MS);
  }
}

/** A page that nobody looks at asks nothing. */
function wait() {
  document.addEventListener("visibilitychange", refresh, { once: true });
}

function show() {
  const wanted = location.hash.slice(1);
  view = open.includes(wanted) ? wanted : open[0];
  for (const name of NAMES) {
    $(`#${name}`).hidden = name !== view;
    const tab = $(`#tabs a[href="#${name}"]`);
    tab.hidden = !open.includes(name);
    if (name === view) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  // On a phone the row of tabs is wider than the screen.
  const tabs = $("#tabs");
  const current = tabs.querySelector("[aria-current]");
  tabs.scrollLeft = current.offsetLeft - (tabs.clientWidth - current.offsetWidth) / 2;
  trouble("");
  return refresh();
}

// ---------------------------------------------------------------- events

let stopEvents = null;
const log = $("#log");
const held = [];

function take(event) {
  if ($("#pause").getAttribute("aria-pressed") === "true") {
    held.push(event);
    if (held.length > LOG_MAX) held.shift();
    return;
  }
  const entry = views.eventLine(event);
  log.prepend(entry);
  entry.hidden = !entry.words.includes($("#event-filter").value.trim().toLowerCase());
  while (log.childElementCount > LOG_MAX) log.lastElementChild.remove();
}

/** What happens, over broken lines; ends when the page is left. */
async function follow(signal) {
  const backoff = new Backoff({ first: 400, longest: 5000 });
  let last = "";
  try {
    // What came before, where it is little enough to be read.
    const page = await get(`/v1/events?limit=${PAGE}`);
    if (!page.has_more) {
      page.data.forEach(take);
      last = page.next_cursor ?? "";
    }
  } catch {
    // The stream below says what is wrong.
  }
  while (!signal.aborted) {
    try {
      const headers = { Authorization: `Bearer ${credential}`, Accept: "text/event-stream" };
      const response = await fetch("/v1/events", { cache: "no-store", signal, headers: last ? { ...headers, "Last-Event-ID": last } : headers });
      if (response.status === 401 || response.status === 403) return;
      if (response.ok) {
        backoff.reset();
        const parser = new EventParser();
        const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let chunk = await reader.read(); !chunk.done; chunk = await reader.read()) {
          for (const { data: text } of parser.push(chunk.value)) {
            const event = JSON.parse(text);
            last = event.id;
            take(event);
          }
        }
      }
    } catch {
      // The line broke: it is begun anew where it was.
    }
    await new Promise((resolve) => setTimeout(resolve, backoff.next()));
  }
}

// ---------------------------------------------------------------- in and out

async function enter(text) {
  credential = text.trim();
  // A room's admin token opens its room alone, and need not ask for what it may not have.
  const claims = readToken(credential);
  try {
    await get(claims?.role ? "/v1/streams?limit=1" : "/v1/node");
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    return leave(words(problem));
  }
  open = claims?.role ? ROOM_VIEWS : NAMES;
  if (open === NAMES) {
    // A node that knows no webhooks shows none.
    const has = await get("/v1/webhooks?limit=1").then(() => true, (problem) => problem.status !== 404);
    if (!has) open = NAMES.filter((name) => name !== "webhooks");
  } else setText($("#node-name"), `Room ${claims.room}`);
  keepToken("operator", "", credential);
  document.body.dataset.state = "open";
  $("#sign-in").hidden = true;
  $("#desk").hidden = false;
  $("#leave").hidden = false;
  const abort = new AbortController();
  stopEvents = abort;
  follow(abort.signal);
  await show();
}

function leave(why = "") {
  credential = "";
  clearTimeout(timer);
  stopEvents?.abort();
  keepToken("operator", "", "");
  setText($("#node-name"), "Admin");
  document.body.dataset.state = "signed-out";
  $("#sign-in").hidden = false;
  $("#desk").hidden = true;
  $("#leave").hidden = true;
  setText($("#sign-in-problem"), why);
  $("#credential").value = "";
  $("#credential").focus();
}

$("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  enter($("#credential").value);
});
$("#leave").addEventListener("click", () => leave());
addEventListener("hashchange", show);
$("#search").addEventListener("input", drawViewers);
$("#event-filter").addEventListener("input", () => {
  const wanted = $("#event-filter").value.trim().toLowerCase();
  for (const entry of log.children) entry.hidden = !entry.words.includes(wanted);
});
$("#pause").addEventListener("click", () => {
  const paused = $("#pause").getAttribute("aria-pressed") !== "true";
  $("#pause").setAttribute("aria-pressed", paused);
  setText($("#pause"), paused ? "Go on" : "Pause");
  if (!paused) held.splice(0).forEach(take);
});

const fieldsOf = (form) => Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value !== ""));
$("#new-key").addEventListener("submit", (event) => {
  event.preventDefault();
  doing("The key was made", async () => {
    const asked = fieldsOf(event.target);
    if (asked.role !== "stream") delete asked.room;
    const { body } = await ask("POST", "/v1/keys", asked);
    event.target.reset();
    showSecret("The key’s secret", body.secret);
  });
});
$("#new-webhook").addEventListener("submit", (event) => {
  event.preventDefault();
  doing("The webhook was made", async () => {
    const { types, ...asked } = fieldsOf(event.target);
    if (types) asked.types = types.split(/[\s,]+/).filter(Boolean);
    const { body } = await ask("POST", "/v1/webhooks", asked);
    event.target.reset();
    showSecret("The webhook’s secret", body.secret);
  });
});

const limitInputs = () => [...$("#limit-fields").querySelectorAll("input")];
const changedLimits = () => limitInputs().filter((input) => input.value !== input.dataset.server);
$("#limit-fields").addEventListener("input", ({ target }) => {
  target.classList.toggle("touched", target.value !== target.dataset.server);
  $("#limits-form button").disabled = changedLimits().length === 0;
  setText($("#limits-said"), "");
});
$("#limits-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const asked = Object.fromEntries(changedLimits().map((input) => [input.name, input.value === "" ? null : Number(input.value)]));
  doing("The limits are in force", async () => {
    // What somebody else has set meanwhile is not lost.
    await ask("PATCH", "/v1/limits", asked, data.limitsTag ? { "If-Match": data.limitsTag } : {});
    for (const input of limitInputs()) input.classList.remove("touched");
    document.activeElement?.blur();
    $("#limits-form button").disabled = true;
    setText($("#limits-said"), "In force.");
  });
});

// On a phone each row is a card.
for (const table of document.querySelectorAll("table")) table.classList.add("cards");
wireCopy($("#copy-secret"), () => $("#secret-text").textContent);
$("#secret").addEventListener("close", () => setText($("#secret-text"), ""));
addEventListener("error", (event) => errors.push(event.message));

window.spillway = {
  get state() { return document.body.dataset.state; },
  get view() { return view; },
  errors,
  data,
  refresh,
};

const kept = given || keptToken("operator", "");
if (kept) enter(kept);
