// The watch page: one WHEP session, shown as soon as a picture is there, and kept going.
//
// For tests: window.spillway = {
//   state      "connecting" | "live" | "waiting" | "reconnecting" | "denied" | "failed" | "idle"
//   errors     [{at, code, text}], the newest last, at most 50
//   live       the last state event of the room, or null
//   stats()    Promise of {framesDecoded, framesPerSecond, frameWidth, frameHeight, packetsReceived, packetsLost,
//              bytesReceived, audioEnergy, srtpCipher, dtlsState, latencyMs, posts, codec, ...} (posts: POSTs made)
//   start(), stop()
//   unmute()   Chromium measures audioEnergy behind the volume: it rises only with the sound on
// }

import { $, LiveEvents, announce, formatBitrate, formatRatio, formatViewers, keepToken, keptToken, roomFromPath, setText, takeFragment, wireCopy } from "./common.js";
import { LatencyReader } from "./latency.js";
import { Keeper } from "./whip.js";

const HIDE_CONTROLS_MS = 2800;

const room = roomFromPath(location.pathname);
const fragment = takeFragment();
let token = fragment.get("token") ?? fragment.get("view") ?? keptToken("view", room);
keepToken("view", room, token);

const video = $("#video");
const stage = $("#stage");
const latency = new LatencyReader(video);
document.title = `${room} · Spillway`;
setText($("#crumb"), room);
setText($("#room-name"), room);
// The attribute alone mutes only the first stream in some browsers.
video.muted = true;

// ---------------------------------------------------------------- the session

const keeper = new Keeper({
  kind: "whep",
  room,
  token,
  prepare(pc) {
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.addTransceiver("audio", { direction: "recvonly" });
  },
  onTrack(event) {
    const stream = event.streams[0] ?? new MediaStream([event.track]);
    if (video.srcObject === stream) return;
    if (!event.streams[0] && video.srcObject?.active) video.srcObject.addTrack(event.track);
    else video.srcObject = stream;
    video.play().catch((error) => {
      if (error.name === "NotAllowedError") show("paused", { title: "Ready", text: "This browser starts video only after a tap." });
    });
  },
  onLosing: keepLastPicture,
  onChange: show,
});

const events = new LiveEvents({
  room,
  token,
  onState(state) {
    keeper.onServer(state);
    renderLine();
  },
  onLine(up) {
    if (!up) keeper.onServerLost();
    renderLine();
  },
});

function start() {
  keeper.token = token;
  events.token = token;
  if (!token) {
    show("denied", { title: "A token is needed", text: "Open the link you were given, or enter the room's view token." });
    return;
  }
  events.start();
  keeper.start();
}

/** The last picture stays on the stage, dimmed, until the next one is there. */
function keepLastPicture() {
  const canvas = $("#last");
  if (!video.videoWidth) return;
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.hidden = false;
}

// ---------------------------------------------------------------- states

const TITLES = { connecting: "Connecting", reconnecting: "Reconnecting", waiting: "Waiting for publisher" };
let state = "connecting";
let retryAt = null;

function show(next, words = {}) {
  state = next;
  retryAt = words.retryAt ?? null;
  document.body.dataset.state = next;
  const playing = next === "live";
  const busy = ["connecting", "reconnecting", "waiting"].includes(next);
  const title = words.title ?? TITLES[next] ?? "";
  setText($("#title"), title);
  setText($("#text"), words.text ?? "");
  $("#veil").hidden = playing;
  $("#spinner").hidden = !busy;
  $("#mark").toggleAttribute("hidden", busy || next === "paused");
  $("#again").hidden = !["failed", "paused", "busy"].includes(next);
  setText($("#again"), next === "paused" ? "Tap to play" : "Try again");
  $("#token-form").hidden = next !== "denied";
  $("#badge").hidden = !playing;
  $("#unmute").hidden = !playing || !video.muted || unmutedOnce;
  if (playing) $("#last").hidden = true;
  if (next === "denied") events.stop();
  renderCountdown();
  renderLine();
  announce(playing ? "Live" : title);
}

function renderCountdown() {
  const left = retryAt === null ? 0 : retryAt - Date.now();
  // Short waits are no news; a stream that is not there yet is not retried "in 2 s" for the eye.
  const shown = state === "reconnecting" && left > 0;
  $("#countdown").hidden = !shown;
  if (shown) setText($("#countdown"), `Trying again in ${Math.ceil(left / 1000)} s`);
}

function renderLine() {
  const { server } = keeper;
  const viewers = formatViewers(server?.viewers);
  $("#viewers").hidden = state !== "live" || !viewers;
  setText($("#viewers"), viewers);
  const behind = state === "live" && latency.latencyMs !== null ? `${(latency.latencyMs / 1000).toFixed(2)} s behind` : "";
  setText($("#behind"), behind);
  const word = { live: "Live", waiting: "Not live yet", connecting: "Connecting", reconnecting: "Reconnecting", denied: "Not allowed", failed: "Stopped", paused: "Ready" }[state] ?? "";
  setText($("#line"), [word, behind, state === "live" ? viewers : ""].filter(Boolean).join(" · "));
}

$("#again").addEventListener("click", () => {
  if (state === "paused") video.play().then(() => show("live"), () => {});
  else start();
});
$("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("#token").value.trim();
  keepToken("view", room, token);
  $("#token").value = "";
  start();
});

// ---------------------------------------------------------------- sound, fullscreen, keys

let unmutedOnce = false;

function setMuted(muted) {
  video.muted = muted;
  if (!muted) unmutedOnce = true;
  const button = $("#mute");
  button.setAttribute("aria-pressed", String(muted));
  button.setAttribute("aria-label", muted ? "Unmute" : "Mute");
  stage.classList.toggle("muted", muted);
  $("#unmute").hidden = state !== "live" || !muted || unmutedOnce;
  announce(muted ? "Muted" : "Sound on");
}

function toggleFullscreen() {
  if (document.fullscreenElement) document.exitFullscreen();
  else if (stage.requestFullscreen) stage.requestFullscreen().catch(() => {});
  // iPhones put only the video itself on the full screen.
  else video.webkitEnterFullscreen?.();
}

function toggleStats(open = $("#stats").hidden) {
  $("#stats").hidden = !open;
  $("#stats-button").setAttribute("aria-expanded", String(open));
  if (open) renderStats();
  else if ($("#stats").contains(document.activeElement)) $("#stats-button").focus();
}

stage.classList.add("muted");
$("#mute").setAttribute("aria-label", "Unmute");
$("#unmute").addEventListener("click", () => setMuted(false));
$("#mute").addEventListener("click", () => setMuted(!video.muted));
$("#full").addEventListener("click", toggleFullscreen);
$("#stats-button").addEventListener("click", () => toggleStats());
$("#stats-close").addEventListener("click", () => toggleStats(false));
video.addEventListener("dblclick", toggleFullscreen);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
  const key = event.key.toLowerCase();
  if (key === "m") setMuted(!video.muted);
  else if (key === "f") toggleFullscreen();
  else if (key === "s") toggleStats();
  else if (key === "escape") toggleStats(false);
  else return;
  event.preventDefault();
});

// The controls rest while nobody moves; with the keyboard's focus on them they stay.
let resting;
function wake() {
  stage.classList.remove("resting");
  clearTimeout(resting);
  resting = setTimeout(() => stage.classList.add("resting"), HIDE_CONTROLS_MS);
}
for (const name of ["pointermove", "pointerdown", "keydown", "focusin"]) stage.addEventListener(name, wake);
wake();

// ---------------------------------------------------------------- statistics

let before = null;
let last = null;

function rate(sum) {
  const now = performance.now();
  const bps = before && sum.bytesReceived >= before.bytes ? ((sum.bytesReceived - before.bytes) * 8000) / (now - before.at) : NaN;
  before = { bytes: sum.bytesReceived, at: now };
  return bps;
}

async function stats() {
  return { ...(await keeper.stats()), latencyMs: latency.latencyMs };
}

async function renderStats() {
  const sum = await stats();
  last = sum;
  const all = sum.packetsReceived + sum.packetsLost;
  const rows = [
    ["Codec", sum.codec ?? "–"],
    ["Picture", sum.frameWidth ? `${sum.frameWidth} × ${sum.frameHeight}, ${Math.round(sum.framesPerSecond)} fps` : "–"],
    ["Bitrate", formatBitrate(rate(sum))],
    ["End to end", sum.latencyMs === null ? "no clock in the picture" : `${(sum.latencyMs / 1000).toFixed(2)} s`],
    ["Round trip", sum.roundTripMs === null ? "–" : `${sum.roundTripMs} ms`],
    ["Jitter buffer", sum.jitterBufferMs === null ? "–" : `${sum.jitterBufferMs} ms`],
    ["Loss", all ? `${formatRatio(Math.max(0, sum.packetsLost) / all)} (${sum.packetsLost})` : "–"],
    ["Packets", sum.packetsReceived.toLocaleString("en")],
    ["Frames decoded", sum.framesDecoded.toLocaleString("en")],
    ["Freezes", String(sum.freezes)],
    ["Decoder", sum.decoder && sum.decoder !== "unknown" ? sum.decoder : "–"],
    ["Encryption", sum.srtpCipher ?? "–"],
    ["Path", sum.path ?? "–"],
    ["Connections made", String(sum.posts)],
  ];
  const list = $("#rows");
  if (list.children.length !== rows.length) {
    list.replaceChildren(...rows.map(([name]) => {
      const row = document.createElement("div");
      const term = document.createElement("dt");
      term.textContent = name;
      row.append(term, document.createElement("dd"));
      return row;
    }));
  }
  rows.forEach(([, value], place) => setText(list.children[place].lastElementChild, value));
}

wireCopy($("#copy-report"), () => JSON.stringify({
  room, state, at: new Date().toISOString(), agent: navigator.userAgent, server: keeper.server, stats: last, errors: keeper.errors,
}, null, 2));

setInterval(() => {
  renderCountdown();
  renderLine();
  if (!$("#stats").hidden) renderStats();
}, 500);

// ---------------------------------------------------------------- start

// Leaving gives the session back; coming back from the browser's page cache starts anew.
addEventListener("pagehide", () => {
  keepLastPicture();
  keeper.halt();
  events.stop();
});
addEventListener("pageshow", (event) => {
  if (event.persisted) start();
});

window.spillway = {
  room,
  get state() { return state; },
  get errors() { return keeper.errors; },
  get live() { return keeper.server; },
  stats,
  start,
  stop() {
    keeper.stop();
    events.stop();
  },
  unmute: () => setMuted(false),
};

start();
