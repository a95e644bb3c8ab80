// What the admin page shows: each view takes what the API answered and draws it. Text goes in as text, never as markup.
// Nothing here asks the server; what is to be done is handed back through `act`.

import { $, formatBitrate, formatRatio, setText } from "./common.js";

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------- words

/** `2d 3h`, `1h 2m`, `3m 12s`, `9s`. */
export function formatSpan(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d) return `${d}d ${h}h`;
  if (h) return `${h}h ${m}m`;
  return m ? `${m}m ${s}s` : `${s}s`;
}

export function formatBytes(bytes) {
  if (!Number.isFinite(bytes)) return "–";
  return bytes >= 2 ** 30 ? `${(bytes / 2 ** 30).toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}

export const formatCount = (count) => (Number.isFinite(count) ? count.toLocaleString("en") : "–");
const age = (time, now) => (time ? formatSpan((now - Date.parse(time)) / 1000) : "–");

/** What of the node is used, fullest first: `{name, ratio, words}`. */
export function resourcesOf(node, limits, points) {
  const found = [];
  const add = (name, used, most, words) => {
    if (Number.isFinite(used) && most > 0) found.push({ name, ratio: Math.min(used / most, 1), words });
  };
  // What the node measures for its own decisions, where it tells; else what the last ten seconds were.
  const told = (node.shards ?? []).map((shard) => shard.busy_ratio).filter(Number.isFinite);
  const busy = told.length ? Math.max(...told) : points.at(-1)?.busy_ratio;
  const busyMax = node.capacity?.busy_ratio_max || 1;
  add("forwarding threads", busy, busyMax, busyMax < 1 ? `${formatRatio(busy)} of ${formatRatio(busyMax)}` : formatRatio(busy));
  const { viewers, publishers } = node.used;
  add("viewers", viewers, limits?.viewers_max, `${formatCount(viewers)} of ${formatCount(limits?.viewers_max)}`);
  add("publishers", publishers, limits?.publishers_max, `${formatCount(publishers)} of ${formatCount(limits?.publishers_max)}`);
  const egress = Math.max(node.egress_bps, node.used.egress_bps);
  add("egress", egress, limits?.egress_mbps_max * 1e6, `${formatBitrate(egress)} of ${formatBitrate(limits?.egress_mbps_max * 1e6)}`);
  return found.sort((left, right) => right.ratio - left.ratio);
}

/** Groups by code, the latest first; a group's count is that of all its attempts. */
export function groupsOf(attempts) {
  const groups = new Map();
  for (const attempt of attempts) {
    const group = groups.get(attempt.code) ?? { code: attempt.code, count: 0, last: "", attempts: [] };
    group.count += attempt.count;
    group.last = attempt.last_at > group.last ? attempt.last_at : group.last;
    group.attempts.push(attempt);
    groups.set(attempt.code, group);
  }
  for (const group of groups.values()) group.attempts.sort((left, right) => (left.last_at < right.last_at ? 1 : -1));
  return [...groups.values()].sort((left, right) => (left.last < right.last ? 1 : -1));
}

// ---------------------------------------------------------------- pieces

/** Keeps one child per item, by key: what the reader has opened, or is about to press, stays. */
export function keep(parent, items, keyOf, create) {
  const kept = parent.kept ?? new Map();
  parent.kept = kept;
  const present = new Set();
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    present.add(key);
    let entry = kept.get(key);
    if (!entry) {
      entry = create(item);
      kept.set(key, entry);
    }
    entry.update(item);
    const next = before ? before.nextSibling : parent.firstChild;
    if (next !== entry.element) parent.insertBefore(entry.element, next);
    before = entry.element;
  }
  for (const [key, entry] of kept) {
    if (present.has(key)) continue;
    entry.element.remove();
    kept.delete(key);
  }
}

/** A table's row: `cells` are `{name, label, of(item), n}`; what `of` gives is text, or nodes. */
function row(cells, actions) {
  return (item) => {
    const boxes = cells.map(({ label, n, className }) => make("td", { "data-label": label, class: [n ? "n" : "", className ?? ""].join(" ").trim() || null }));
    const buttons = make("span", { class: "actions" }, ...actions(item));
    const element = make("tr", {}, ...boxes, make("td", {}, buttons));
    const shown = [];
    const update = (now) => {
      cells.forEach(({ of, titled }, index) => {
        const value = of(now);
        const key = Array.isArray(value) ? value.map((node) => node.textContent ?? node).join("\n") : value;
        if (shown[index] === key) return;
        shown[index] = key;
        boxes[index].replaceChildren(...(Array.isArray(value) ? value : [value]));
        if (titled) boxes[index].title = titled(now);
      });
      buttons.update?.(now);
    };
    return { element, update };
  };
}

/** Asks once more before it does something that cannot be taken back. */
export function sureButton(label, question, act) {
  const button = make("button", { class: "button small", type: "button" }, label);
  let timer;
  const reset = () => {
    clearTimeout(timer);
    button.classList.remove("sure");
    button.textContent = label;
  };
  button.addEventListener("click", async () => {
    if (!button.classList.contains("sure")) {
      button.classList.add("sure");
      button.textContent = question;
      timer = setTimeout(reset, 4000);
      return;
    }
    reset();
    button.disabled = true;
    try {
      await act();
    } finally {
      button.disabled = false;
    }
  });
  button.addEventListener("blur", reset);
  return button;
}

export function plainButton(label, act) {
  const button = make("button", { class: "button small", type: "button" }, label);
  button.addEventListener("click", act);
  return button;
}

const chip = (text, kind = "") => make("span", { class: `chip ${kind}`.trim() }, text);
const code = (text) => make("code", {}, text);

function gauge(element, ratio) {
  element.classList.toggle("high", ratio >= 0.75 && ratio < 0.92);
  element.classList.toggle("full", ratio >= 0.92);
  // By the object model: the content policy forbids style in markup.
  element.firstElementChild.style.width = `${(ratio * 100).toFixed(1)}%`;
}

// ---------------------------------------------------------------- views

/** What ends first, in words; a name of later versions stands for itself. */
const ENDS = {
  shards: "its forwarding threads have no more time",
  egress: "its egress is used up",
  viewers: "its limit of viewers is reached",
  sessions: "its tables are full",
};

export function drawOverview({ node, limits, points, streams }) {
  const resources = resourcesOf(node, limits, points);
  const most = resources[0];
  const ratio = most?.ratio ?? 0;
  const left = node.capacity?.viewers_left;
  const room = Number.isFinite(left) ? `; room for about ${formatCount(left)} viewers, then ${ENDS[node.capacity.limited_by] ?? node.capacity.limited_by}` : "";
  setText($("#capacity-words"), most ? `${formatRatio(ratio)} used, nearest its limit: ${most.name}${room}` : "Nothing is limited, and nothing is measured yet");
  $("#gauge").setAttribute("aria-valuenow", Math.round(ratio * 100));
  gauge($("#gauge"), ratio);
  keep($("#resources"), resources, ({ name }) => name, ({ name }) => {
    const [label, words, bar] = [make("span", {}, name), make("b"), make("span", { class: "gauge", "aria-hidden": "true" }, make("span"))];
    return { element: make("li", {}, label, words, bar), update: (item) => {
      setText(words, item.words);
      gauge(bar, item.ratio);
      label.classList.toggle("most", item.name === most.name);
    } };
  });
  const engine = { uring: "io_uring", socket: "plain sockets" }[node.engine] ?? node.engine ?? "restarting";
  const figures = [
    ["Viewers", formatCount(node.used.viewers), node.used.viewers], ["Streams", formatCount(node.streams), node.streams],
    ["Egress", formatBitrate(node.egress_bps), node.egress_bps], ["Memory", formatBytes(node.memory_bytes), node.memory_bytes],
    ["Engine", `${engine} × ${node.shards.length}`, node.shards.length], ["Up for", formatSpan(node.uptime_seconds), node.uptime_seconds],
  ];
  keep($("#figures"), figures, ([name]) => name, ([name]) => {
    const value = make("dd");
    return { element: make("div", { "data-figure": name }, make("dt", {}, name), value), update: ([, text, raw]) => {
      setText(value, text);
      value.dataset.raw = raw;
      value.title = text;
    } };
  });
  const warnings = streams.flatMap((stream) => stream.warnings.map((warning) => ({ room: stream.room, ...warning })));
  $("#warnings-card").hidden = warnings.length === 0;
  keep($("#warnings"), warnings, (warning) => `${warning.room} ${warning.code}`, () => {
    const element = make("li");
    return { element, update: (warning) => {
      if (element.textContent === "") element.append(make("b", {}, warning.room), ` ${warning.detail}`);
    } };
  });
}

export function drawStreams(streams, now, act) {
  const video = (stream) => stream.tracks.find((track) => track.kind === "video");
  const cells = [
    { label: "Room", of: (stream) => stream.room },
    { label: "State", of: (stream) => [stream.live ? chip("live", "good") : chip("waiting"), ...(stream.recording ? [" ", chip("rec", "bad")] : [])] },
    { label: "Viewers", n: true, of: (stream) => formatCount(stream.viewers) },
    { label: "Bitrate", n: true, of: (stream) => formatBitrate(stream.bitrate_bps) },
    { label: "Frames", n: true, of: (stream) => (video(stream) ? `${video(stream).frames_per_second.toFixed(0)}/s` : "–") },
    { label: "Loss", n: true, of: (stream) => formatRatio(Math.max(0, ...stream.tracks.map((track) => track.loss_ratio))) },
    { label: "Codecs", of: (stream) => stream.tracks.map((track) => track.codec).join(" ") },
    { label: "Age", n: true, of: (stream) => age(stream.started_at, now) },
    { label: "Warnings", className: "warns", of: (stream) => stream.warnings.map((warning) => chip(warning.code.replaceAll("_", " "), "bad")), titled: (stream) => stream.warnings.map((warning) => warning.detail).join("\n") },
  ];
  // A row of its own for each recording: its button does something else then.
  keep($("#stream-rows"), streams, (stream) => `${stream.id} ${stream.recording ?? ""}`, row(cells, (stream) => [
    stream.recording
      ? sureButton("Stop rec", "Stop it?", () => act.stopRecording(stream.recording))
      : plainButton("Record", () => act.record(stream.room)),
    plainButton("Keyframe", () => act.keyframe(stream.id)),
    sureButton("End", "End it?", () => act.endStream(stream.id)),
  ]));
}

export function drawRecordings(recordings, now, act) {
  const kind = { recording: "bad", finished: "good" };
  const cells = [
    { label: "Room", of: (recording) => recording.room ?? "–" },
    { label: "State", of: (recording) => [chip(recording.state, kind[recording.state] ?? ""), ...(recording.error ? [" ", chip(recording.error.code.replaceAll("_", " "), "bad")] : [])], titled: (recording) => recording.error?.detail ?? "" },
    { label: "Length", n: true, of: (recording) => formatSpan(recording.duration_ms / 1000) },
    { label: "Size", n: true, of: (recording) => formatBytes(recording.size) },
    { label: "Files", n: true, of: (recording) => formatCount(recording.files.length) },
    { label: "Gaps", n: true, of: (recording) => (recording.gaps_count ? `${formatCount(recording.gaps_count)} (${formatSpan(recording.gaps_ms / 1000)})` : "–") },
    { label: "Codecs", of: (recording) => [...new Set(recording.files.flatMap((file) => file.codecs))].join(" ") },
    { label: "Age", n: true, of: (recording) => age(recording.created_at, now) },
  ];
  keep($("#recording-rows"), recordings, (recording) => `${recording.id} ${recording.state}`, row(cells, (recording) => [
    make("a", { class: "button small", href: `/recordings/${encodeURIComponent(recording.id)}` }, "Play"),
    recording.state === "finished"
      ? sureButton("Delete", "Delete it?", () => act.deleteRecording(recording.id))
      : sureButton("Stop", "Stop it?", () => act.stopRecording(recording.id)),
  ]));
}

/** Statistics that the API may have of viewers: shown as soon as one of them comes. */
const milliseconds = (ms) => (Number.isFinite(ms) ? `${Math.round(ms)} ms` : "–");
const QUALITY = [
  ["First picture", (quality) => quality.join?.first_picture_ms, milliseconds], ["RTT", (quality) => quality.round_trip_ms, milliseconds],
  ["Loss", (quality) => (quality.video ?? quality.audio)?.loss_ratio, formatRatio], ["Jitter", (quality) => (quality.video ?? quality.audio)?.jitter_ms, milliseconds],
  ["Asked again", (quality) => quality.packets_nacked, formatCount], ["Freezes", (quality) => quality.freezes_estimated, formatCount],
];

export function matches(viewer, words) {
  const text = [viewer.id, viewer.room, viewer.sub, viewer.account].join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

export function drawViewers({ viewers, hasMore }, words, now, act) {
  const known = viewers.some((viewer) => viewer.quality) ? QUALITY : [];
  const cells = [
    { label: "Who", of: (viewer) => viewer.sub },
    { label: "Room", of: (viewer) => viewer.room },
    { label: "Account", of: (viewer) => viewer.account },
    { label: "State", of: (viewer) => [viewer.connected ? chip("connected", "good") : chip("joining")] },
    { label: "Here for", n: true, of: (viewer) => age(viewer.joined_at, now) },
    ...known.map(([label, of, words]) => ({ label, n: true, of: (viewer) => words(of(viewer.quality ?? {})) })),
    { label: "Id", of: (viewer) => [code(viewer.id)] },
  ];
  const head = $("#viewer-head");
  const titles = cells.map(({ label }) => label).join();
  if (head.dataset.titles !== titles) {
    head.dataset.titles = titles;
    head.replaceChildren(...cells.map(({ label, n }) => make("th", { class: n ? "n" : null }, label)), make("th", {}, make("span", { class: "visually-hidden" }, "Actions")));
    $("#viewer-rows").kept = undefined;
    $("#viewer-rows").replaceChildren();
  }
  const found = viewers.filter((viewer) => matches(viewer, words));
  keep($("#viewer-rows"), found, (viewer) => viewer.id, row(cells, (viewer) => [sureButton("Kick", "Kick?", () => act.kick(viewer.id))]));
  const of = hasMore ? `the first ${formatCount(viewers.length)}` : formatCount(viewers.length);
  setText($("#viewer-count"), found.length === viewers.length ? `${of} watching` : `${formatCount(found.length)} of ${of}`);
  setText($("#no-viewers"), viewers.length ? "Nobody fits." : "Nobody watches.");
}

const WORDS = { whip: "publish", whep: "watch" };

export function drawAttempts(attempts, now) {
  keep($("#attempt-groups"), groupsOf(attempts), (group) => group.code, () => {
    const [count, title, detail, list] = [chip("", "bad"), make("b"), make("span", { class: "grow" }), make("div")];
    const element = make("details", { class: "card group" }, make("summary", {}, count, title, detail), list);
    return { element, update: (group) => {
      element.dataset.code = group.code;
      setText(count, formatCount(group.count));
      setText(title, group.code.replaceAll("_", " "));
      setText(detail, `${group.attempts[0].detail} (${age(group.last, now)} ago)`);
      keep(list, group.attempts, (attempt) => attempt.id, attemptEntry(now));
    } };
  });
}

function attemptEntry(now) {
  return () => {
    const [who, detail, sdp] = [make("p"), make("p", { class: "hint" }), make("div", { class: "sdp" })];
    const open = make("details", {}, make("summary", {}, "Offer and answer"), sdp);
    return { element: make("div", { class: "attempt" }, who, detail, open), update: (attempt) => {
      const name = attempt.sub ? `${attempt.sub} wanted to` : "Somebody without a valid token wanted to";
      const where = attempt.room ? ` ${attempt.room}` : "";
      const often = attempt.count > 1 ? `, ${formatCount(attempt.count)} times` : "";
      setText(who, `${name} ${WORDS[attempt.protocol] ?? attempt.protocol}${where}${often}, ${age(attempt.last_at, now)} ago`);
      setText(detail, attempt.detail);
      open.hidden = !attempt.offer && !attempt.answer;
      const text = `${attempt.offer}\n${attempt.answer}`;
      if (sdp.dataset.text === text) return;
      sdp.dataset.text = text;
      const part = (label, body) => (body ? [make("div", {}, make("span", { class: "label" }, label), make("pre", {}, body))] : []);
      sdp.replaceChildren(...part("Offer", attempt.offer), ...part("Answer", attempt.answer));
    } };
  };
}

export function drawKeys(keys, now, act) {
  const cells = [
    { label: "Name", of: (key) => key.name || "–" },
    { label: "Role", of: (key) => [chip(key.role, key.role === "admin" ? "bad" : "")] },
    { label: "Room", of: (key) => key.room ?? "–" },
    { label: "Id", of: (key) => [code(key.id)] },
    { label: "Age", n: true, of: (key) => age(key.created_at, now) },
    { label: "Secret’s age", n: true, of: (key) => age(key.rotated_at, now) },
  ];
  keep($("#key-rows"), keys, (key) => key.id, row(cells, (key) => [
    sureButton("Rotate", "Rotate?", () => act.rotateKey(key.id)),
    sureButton("Revoke", "Revoke?", () => act.revokeKey(key.id)),
  ]));
}

export function drawWebhooks(webhooks, now, act) {
  const cells = [
    { label: "URL", of: (hook) => hook.url, titled: (hook) => hook.url },
    { label: "Types", of: (hook) => (hook.types.length ? hook.types.join(", ") : "all") },
    { label: "Room", of: (hook) => hook.room ?? "all" },
    { label: "State", of: (hook) => [hook.enabled ? (hook.failing_since ? chip("failing", "bad") : chip("on", "good")) : chip("off")], titled: (hook) => hook.disabled_reason ?? "" },
    { label: "Age", n: true, of: (hook) => age(hook.created_at, now) },
  ];
  keep($("#webhook-rows"), webhooks, (hook) => `${hook.id} ${hook.enabled}`, row(cells, (hook) => [
    plainButton("Deliveries", () => act.showDeliveries(hook)),
    plainButton("Test", () => act.testWebhook(hook.id)),
    plainButton(hook.enabled ? "Switch off" : "Switch on", () => act.switchWebhook(hook.id, !hook.enabled)),
    sureButton("Delete", "Delete?", () => act.deleteWebhook(hook.id)),
  ]));
}

export function drawDeliveries(hook, deliveries, now, act) {
  $("#deliveries-card").hidden = !hook;
  if (!hook) return;
  setText($("#deliveries-of"), hook.url);
  const kind = { delivered: "good", dead: "bad" };
  const cells = [
    { label: "Event", of: (delivery) => delivery.type },
    { label: "State", of: (delivery) => [chip(delivery.status, kind[delivery.status] ?? "")] },
    { label: "Tries", n: true, of: (delivery) => formatCount(delivery.attempts) },
    { label: "Answer", n: true, of: (delivery) => String(delivery.response_status ?? "–") },
    { label: "Error", of: (delivery) => delivery.error ?? "", titled: (delivery) => delivery.error ?? "" },
    { label: "Age", n: true, of: (delivery) => age(delivery.created_at, now) },
  ];
  keep($("#delivery-rows"), deliveries, (delivery) => delivery.id, row(cells, (delivery) => [plainButton("Send again", () => act.retryDelivery(hook.id, delivery.id))]));
}

const LIMIT_WORDS = {
  publishers_max: ["Publishers", "of this node"], publishers_per_account_max: ["Publishers per account", "over all rooms"],
  viewers_max: ["Viewers", "of this node"], viewers_per_room_max: ["Viewers per room", "of rooms without a limit of their own"],
  viewers_per_account_max: ["Viewers per account", "over all rooms"], joins_per_second_max: ["Joins per second", "viewers that may come"],
  egress_mbps_max: ["Egress, Mbit/s", "that go out to viewers"],
};

/** Fields that the reader has not touched follow the server. */
export function drawLimits(limits) {
  const names = Object.keys(limits).filter((name) => name.endsWith("_max"));
  keep($("#limit-fields"), names, (name) => name, (name) => {
    const [title, about] = LIMIT_WORDS[name] ?? [name, ""];
    const input = make("input", { id: `limit-${name}`, name, type: "number", min: 0, max: 1_000_000, inputmode: "numeric", "aria-describedby": `about-${name}` });
    const hint = make("span", { class: "hint", id: `about-${name}` });
    const element = make("div", { class: "field" }, make("label", { for: input.id }, title), input, hint);
    return { element, update: (field) => {
      const isSet = limits.set_here.includes(field);
      if (document.activeElement !== input && !input.classList.contains("touched")) input.value = limits[field];
      input.dataset.server = limits[field];
      setText(hint, `${about}; ${isSet ? "set here" : "from the configuration"}`);
    } };
  });
}

/** One line of the log. */
export function eventLine(event) {
  const { id: about, ...more } = event.data ?? {};
  const rest = Object.entries(more).filter(([, value]) => value !== null && value !== "").map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`);
  const words = [about === event.room ? "" : about ?? "", ...rest].filter(Boolean).join("   ");
  const line = make("li", { class: /warning|lost|missed|failed/.test(event.type) ? "warning" : null },
    make("time", { datetime: event.time }, new Date(event.time).toLocaleTimeString([], { hour12: false })),
    make("span", { class: "what" }, event.type), make("span", {}, event.room ?? ""), make("span", { title: words }, words));
  line.words = `${event.type} ${event.room ?? ""} ${words}`.toLowerCase();
  return line;
}
