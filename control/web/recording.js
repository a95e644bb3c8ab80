// Plays a recording: files that are final, and files that still grow, as far as they go.
//
// For tests: window.spillway = {state: "connecting" | "ready" | "denied" | "failed", errors: [], recording: what the API
// answered last, file: the name that plays}.

import { $, Problem, announce, formatDuration, keepToken, keptToken, setText, takeFragment } from "./common.js";
import { formatBytes, keep, make } from "./admin-views.js";
import { gapMarks, isGrowing, playProblem, reasonWords, stateWords } from "./recording-words.js";

const POLL_MS = 2000;
/** A file that is made final is another one: it is loaded anew, but not for ever. */
const LOADS_MAX = 3;

const id = location.pathname.split("/")[2] ?? "";
const fragment = takeFragment();
let token = fragment.get("token") ?? keptToken("operator", "");
let recording = null;
let name = "";
let wasFinal = false;
let loads = 0;
const errors = [];
const video = $("#video");

const path = `/v1/recordings/${encodeURIComponent(id)}`;
/** A video element sends no headers: the token goes along as /v1 takes it, over this node's own address. */
const source = () => `${path}/download?file=${encodeURIComponent(name)}&token=${encodeURIComponent(token)}`;
const file = () => recording?.files.find((one) => one.name === name);

function show(state, title = "", text = "") {
  document.body.dataset.state = state;
  $("#veil").hidden = state === "ready";
  $("#spinner").hidden = state !== "connecting";
  $("#token-form").hidden = state !== "denied";
  setText($("#title"), title);
  setText($("#text"), text);
  if (title) announce(title);
}

async function ask() {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", headers: { Authorization: `Bearer ${token}`, Accept: "application/json" } });
  } catch {
    throw new Problem();
  }
  if (!response.ok) throw await Problem.from(response);
  return response.json();
}

/** Loads the file that is chosen, and goes on at `at` seconds. */
function load(at = 0, playing = false) {
  wasFinal = file()?.final ?? false;
  video.src = source();
  video.addEventListener("loadedmetadata", () => {
    if (at > 0) video.currentTime = at;
    if (playing) video.play().catch(() => {});
    draw();
  }, { once: true });
}

function choose(other) {
  name = other;
  loads = 0;
  setText($("#problem"), "");
  load();
  draw();
}

function draw() {
  if (!recording) return;
  const where = recording.room ?? "Recording";
  document.title = `${where} · Spillway`;
  setText($("#crumb"), where);
  setText($("#room-name"), where);
  const parts = [stateWords(recording), formatDuration(recording.duration_ms), formatBytes(recording.size), recording.created_at.slice(0, 16).replace("T", " ")];
  if (recording.gaps_count) parts.push(`${recording.gaps_count} ${recording.gaps_count === 1 ? "gap" : "gaps"}, ${formatDuration(recording.gaps_ms)}`);
  setText($("#line"), [...parts, reasonWords(recording)].filter(Boolean).join(" · "));
  if (recording.error) setText($("#problem"), `${recording.error.code}: ${recording.error.detail}`);
  keep($("#files"), recording.files, (one) => one.name, (one) => {
    const element = make("button", { class: "button small", type: "button" });
    element.addEventListener("click", () => choose(one.name));
    return { element, update: (now) => {
      setText(element, `${now.name} · ${now.codecs.join(" ")} · ${formatBytes(now.size)}`);
      element.toggleAttribute("aria-current", now.name === name);
    } };
  });
  const now = file();
  $("#download").hidden = !now;
  if (now) {
    $("#download").href = source();
    setText($("#download"), now.final ? `Download ${formatBytes(now.size)}` : `Download the ${formatBytes(now.size)} so far`);
  }
  const length = Number.isFinite(video.duration) ? video.duration : (now?.duration_ms ?? 0) / 1000;
  keep($("#gaps"), now ? gapMarks(recording, now, length) : [], (mark) => mark.at, () => {
    const element = make("button", { type: "button", role: "listitem" });
    let at = 0;
    element.addEventListener("click", () => { video.currentTime = Math.max(0, at - 1); });
    return { element, update: (mark) => {
      at = mark.at;
      element.style.left = `${mark.left}%`;
      element.style.width = `${mark.width}%`;
      element.title = `${formatDuration(mark.at * 1000)}: ${mark.words}`;
      element.setAttribute("aria-label", element.title);
    } };
  });
}

async function refresh() {
  try {
    recording = await ask();
    keepToken("operator", "", token);
    if (recording.files.length === 0) {
      show(isGrowing(recording) ? "connecting" : "failed", isGrowing(recording) ? stateWords(recording) : "Nothing was recorded",
        isGrowing(recording) ? "Its first pictures are not on the disk yet." : "");
    } else {
      if (document.body.dataset.state !== "ready") show("ready");
      if (!name) choose(recording.files[0].name);
    }
    draw();
    if (isGrowing(recording)) setTimeout(refresh, POLL_MS);
  } catch (problem) {
    if (!(problem instanceof Problem)) {
      errors.push(String(problem));
      throw problem;
    }
    if (problem.status === 401 || problem.status === 403) {
      keepToken("operator", "", "");
      return show("denied", "A key or a token is needed", token ? problem.detail : "An API key, or an admin token of the recording's room.");
    }
    if (problem.status === 404) return show("failed", "No such recording", problem.detail);
    if (document.body.dataset.state !== "ready") show("connecting", problem.title || "The server cannot be reached", problem.detail || "Trying again.");
    setTimeout(refresh, POLL_MS);
  }
}

// As far as it went when it was loaded: of a file that grows there is more by now.
video.addEventListener("ended", () => {
  const now = file();
  if (now && !wasFinal) return load(video.currentTime, true);
  const next = recording?.files[recording.files.findIndex((one) => one.name === name) + 1];
  if (!next) return;
  choose(next.name);
  video.play().catch(() => {});
});
video.addEventListener("error", async () => {
  // What was growing may have been made final under the player's feet.
  if (!wasFinal && loads < LOADS_MAX) {
    loads += 1;
    const [at, playing] = [video.currentTime, !video.paused];
    await new Promise((resolve) => setTimeout(resolve, 1000));
    return load(at, playing);
  }
  const words = playProblem(video.error?.code, file());
  errors.push(words);
  setText($("#problem"), words);
});
video.addEventListener("durationchange", draw);
video.addEventListener("playing", () => { loads = 0; });

$("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("#token").value.trim();
  show("connecting", "Loading");
  refresh();
});
addEventListener("error", (event) => errors.push(event.message));

window.spillway = {
  get state() { return document.body.dataset.state; },
  get recording() { return recording; },
  get file() { return name; },
  errors,
};

if (token) refresh();
else show("denied", "A key or a token is needed", "An API key, or an admin token of the recording's room.");
