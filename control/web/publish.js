// The publish page: a source, one WHIP session, and what the server says it receives.
//
// For tests: `/publish/{room}?auto=camera` or `?auto=pattern` (or `#token=...&auto=camera`) goes live by itself.
// The sound of the pattern needs a click, or --autoplay-policy=no-user-gesture-required. window.spillway = {
//   state      "idle" | "connecting" | "live" | "reconnecting" | "denied" | "busy" | "taken" | "failed"
//   errors     [{at, code, text}], the newest last, at most 50
//   live       the last state event of the room, or null
//   stats()    Promise of the same numbers as on the watch page; here packetsSent, bytesSent and framesEncoded rise
//   start(kind) with "camera", "screen" or "pattern" (default: what is chosen); stop()
// }

import { $, LiveEvents, announce, formatBitrate, formatDuration, formatRatio, keepToken, keptToken, roomFromPath, setText, takeFragment, wireCopy } from "./common.js";
import { FRAMES, cellsOf, frameAt, nextBeep } from "./latency.js";
import { Keeper } from "./whip.js";

const NO_TOKEN = { title: "A token is needed", text: "Open the publish link you were given, or enter the room's publish token." };
const QUALITIES = {
  1080: { width: 1920, height: 1080, bitrate: 4_500_000 },
  720: { width: 1280, height: 720, bitrate: 2_500_000 },
  360: { width: 640, height: 360, bitrate: 800_000 },
};
const FRAME_RATE = 30;
const HISTORY = 120;
/** Keyframes further apart than this make joining viewers wait. */
const KEYFRAME_INTERVAL_GOOD_MS = 4000;
const LOSS_GOOD_RATIO = 0.02;

const room = roomFromPath(location.pathname);
const fragment = takeFragment();
let token = fragment.get("token") ?? fragment.get("publish") ?? keptToken("publish", room);
keepToken("publish", room, token);
const viewToken = fragment.get("view") ?? keptToken("view", room);
keepToken("view", room, viewToken);
const auto = fragment.get("auto") ?? new URLSearchParams(location.search).get("auto");

let state = "idle";
let words = {};
let liveSince = null;

const video = $("#video");
document.title = `Publish ${room} · Spillway`;
setText($("#crumb"), room);

// ---------------------------------------------------------------- sources

const secure = window.isSecureContext && Boolean(navigator.mediaDevices);
const camera = $("#camera");
const microphone = $("#microphone");
const quality = () => QUALITIES[$("#quality").value];
const kindChosen = () => $("#kinds input:checked").value;

/** What is captured now: {kind, stream, stop()}. */
let source = null;

/** Words for what a browser says when it does not hand out a camera, a microphone or a screen. */
function captureWords(error, kind) {
  const what = kind === "screen" ? "screen" : "camera or microphone";
  switch (error.name) {
    case "NotAllowedError":
      return { title: kind === "screen" ? "No screen was chosen" : "The camera was not allowed", text: kind === "screen" ? "Choose a screen, window or tab to share it." : "Allow camera and microphone beside the address bar, then try again." };
    case "NotFoundError":
      return { title: `No ${what} found`, text: "Connect one, or take the test pattern." };
    case "NotReadableError":
      return { title: `The ${what} is in use`, text: "Close the other program that uses it, then try again." };
    case "OverconstrainedError":
      return { title: `This ${what} is gone`, text: "Choose another one." };
    default:
      return { title: `No ${what}`, text: error.message || error.name };
  }
}

const size = () => ({ width: { ideal: quality().width }, height: { ideal: quality().height }, frameRate: { ideal: FRAME_RATE } });
const exactly = (id) => (id ? { deviceId: { exact: id } } : {});

async function openCamera() {
  const audio = microphone.value === "none" ? false : { ...exactly(microphone.value), echoCancellation: false };
  const request = { video: { ...exactly(camera.value), ...size() }, audio };
  try {
    return await navigator.mediaDevices.getUserMedia(request);
  } catch (error) {
    // A machine without a microphone still has a picture.
    if (error.name !== "NotFoundError" || !audio || microphone.value) throw error;
    return navigator.mediaDevices.getUserMedia({ ...request, audio: false });
  }
}

async function openScreen() {
  const stream = await navigator.mediaDevices.getDisplayMedia({ video: size(), audio: true });
  if (microphone.value !== "none" && stream.getAudioTracks().length === 0) {
    // The screen came without sound: the microphone speaks, if it may.
    const voice = await navigator.mediaDevices.getUserMedia({ audio: exactly(microphone.value) }).catch(() => null);
    voice?.getAudioTracks().forEach((track) => stream.addTrack(track));
  }
  return stream;
}

let audioContext = null;
function sound() {
  audioContext ??= new AudioContext({ sampleRate: 48_000 });
  if (audioContext.state === "suspended") audioContext.resume().catch(() => {});
  return audioContext;
}
// A sound that was asked for before the first click begins with it.
for (const name of ["pointerdown", "keydown"]) {
  addEventListener(name, () => audioContext?.state === "suspended" && sound());
}

/** Moving lights, the row of cells with the frame number of the wall clock, a flash and a beep each second. */
function openPattern() {
  const { width, height } = quality();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { alpha: false });
  const unit = width / 640;
  const cell = width / 20;
  const light = (x, y, radius, color) => {
    const glow = context.createRadialGradient(x, y, 0, x, y, radius);
    glow.addColorStop(0, `rgb(${color})`);
    glow.addColorStop(1, `rgb(${color} / 0)`);
    context.fillStyle = glow;
    context.fillRect(x - radius, y - radius, 2 * radius, 2 * radius);
  };
  let drawn = -1;
  const draw = () => {
    const now = Date.now();
    const k = frameAt(now);
    if (k === drawn) return;
    drawn = k;
    const turn = (2 * Math.PI * k) / FRAMES;
    const sky = context.createLinearGradient(0, 0, width, height);
    sky.addColorStop(0, `hsl(${240 + 24 * Math.sin(turn)} 62% 24%)`);
    sky.addColorStop(1, `hsl(${290 + 24 * Math.sin(turn)} 46% 20%)`);
    context.fillStyle = sky;
    context.fillRect(0, 0, width, height);
    light(unit * (320 + 190 * Math.cos(2 * turn)), unit * (190 + 86 * Math.sin(2 * turn)), unit * 120, "255 122 96");
    light(unit * (320 - 210 * Math.cos(3 * turn)), unit * (200 + 70 * Math.sin(6 * turn)), unit * 90, "96 236 200");
    context.fillStyle = "#fff";
    if (k % 30 < 3) context.fillRect(unit * 272, unit * 132, unit * 96, unit * 96);
    context.font = `600 ${unit * 22}px system-ui, sans-serif`;
    context.textAlign = "center";
    context.fillText(new Date(now).toLocaleTimeString("en-GB"), width / 2, height - unit * 24);
    cellsOf(k).forEach((white, place) => {
      context.fillStyle = white ? "#fff" : "#000";
      context.fillRect(place * cell, 0, cell, cell);
    });
  };
  draw();
  // Twice per frame, drawn only when the number changed: never more than half a frame late.
  const timer = setInterval(draw, 1000 / FRAME_RATE / 2);
  const stream = canvas.captureStream(FRAME_RATE);

  const context48 = sound();
  const out = context48.createMediaStreamDestination();
  const gate = context48.createGain();
  gate.gain.value = 0;
  const tone = context48.createOscillator();
  tone.frequency.value = 1000;
  tone.connect(gate).connect(out);
  tone.start();
  const beep = () => {
    if (context48.state !== "running") return;
    const { at, clear } = nextBeep(Date.now(), context48.currentTime);
    gate.gain.cancelScheduledValues(clear);
    gate.gain.setValueAtTime(0, at);
    gate.gain.linearRampToValueAtTime(0.3, at + 0.004);
    gate.gain.setValueAtTime(0.3, at + 0.096);
    gate.gain.linearRampToValueAtTime(0, at + 0.1);
  };
  beep();
  const beeper = setInterval(beep, 500);
  out.stream.getAudioTracks().forEach((track) => stream.addTrack(track));
  stream.addEventListener("spillway-stop", () => {
    clearInterval(timer);
    clearInterval(beeper);
    tone.stop();
  });
  return stream;
}

/** Opens the chosen source and shows it. While live, the new tracks take the places of the old ones. */
async function openSource(kind) {
  const open = { camera: openCamera, screen: openScreen, pattern: openPattern }[kind];
  if (!secure && kind !== "pattern") {
    throw Object.assign(new Error("This page has no secure connection. Use https, localhost, or the test pattern."), { name: "SecureContext" });
  }
  const stream = await open();
  closeSource();
  source = { kind, stream };
  const [picture] = stream.getVideoTracks();
  picture.contentHint = kind === "screen" ? "detail" : "motion";
  picture.addEventListener("ended", () => {
    if (source?.stream !== stream) return;
    closeSource();
    if (keeper.running) stop();
    if (kind === "camera") veil({ title: "The camera is gone", text: "Connect it again, or choose another one." });
  });
  video.srcObject = stream;
  video.play().catch(() => {});
  video.classList.toggle("mirror", kind === "camera");
  veil(null);
  listen(stream);
  if (keeper.link) await placeTracks(keeper.link.pc);
  if (kind === "camera") await listDevices();
}

function closeSource() {
  source?.stream.dispatchEvent(new Event("spillway-stop"));
  source?.stream.getTracks().forEach((track) => track.stop());
  source = null;
  video.srcObject = null;
  listen(null);
  veil({});
}

async function listDevices() {
  if (!navigator.mediaDevices?.enumerateDevices) return;
  const devices = await navigator.mediaDevices.enumerateDevices();
  for (const [select, kind, fixed] of [[camera, "videoinput", 1], [microphone, "audioinput", 2]]) {
    const chosen = select.value;
    const options = devices.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default" && device.label)
      .map((device) => new Option(device.label, device.deviceId));
    select.replaceChildren(...[...select.options].slice(0, fixed), ...options);
    select.value = [...select.options].some((option) => option.value === chosen) ? chosen : "";
  }
}
navigator.mediaDevices?.addEventListener?.("devicechange", () => listDevices().catch(() => {}));

/** What stands on the stage while there is no picture; null: there is one. */
function veil(words) {
  $("#veil").hidden = words === null;
  if (words === null) return;
  const kind = kindChosen();
  const defaults = {
    camera: ["Camera is off", "Preview it first, or go live at once."],
    screen: ["No screen chosen", "The browser asks which screen, window or tab to share."],
    pattern: ["Test pattern", "Moving lights, a clock and a beep each second."],
  }[kind];
  setText($("#veil-title"), words.title ?? defaults[0]);
  setText($("#veil-text"), words.text ?? defaults[1]);
  $("#preview-button").hidden = (!secure && kind !== "pattern") || state === "denied";
  setText($("#preview-button"), kind === "screen" ? "Choose a screen" : "Preview");
}

async function preview(kind = kindChosen()) {
  try {
    await openSource(kind);
    return true;
  } catch (error) {
    keeper.note(error.name, error.message);
    const words = captureWords(error, kind);
    if (source) toast(words);
    else veil(words);
    announce(words.title);
    return false;
  }
}

// ---------------------------------------------------------------- the session

/** What the browser can send and the server forwards, in the profile that every viewer has. */
const CODECS = {
  H264: (fmtp) => /packetization-mode=1/.test(fmtp),
  VP8: () => true,
  VP9: (fmtp) => !/profile-id=[^0]/.test(fmtp),
  AV1: (fmtp) => !/(^|;)\s*profile=[^0]/.test(fmtp),
  H265: (fmtp) => !/profile-id=(?!1\b)/.test(fmtp),
};

/** The browser's codecs of that name that the server takes. */
function codecsNamed(name, all = RTCRtpSender.getCapabilities?.("video")?.codecs ?? []) {
  return all.filter((codec) => codec.mimeType.toUpperCase() === `VIDEO/${name}` && CODECS[name](codec.sdpFmtpLine ?? ""));
}

/** The codec chosen, in the order in which the browser shall offer; H264 in the profile that every player knows. */
function orderCodecs(transceiver) {
  const wanted = $("#codec").value;
  const all = RTCRtpSender.getCapabilities?.("video")?.codecs ?? [];
  if (!wanted || !transceiver.setCodecPreferences) return;
  const baseline = (codec) => /profile-level-id=42e0/i.test(codec.sdpFmtpLine ?? "");
  const chosen = codecsNamed(wanted, all).sort((a, b) => baseline(b) - baseline(a));
  const helpers = all.filter((codec) => /\/(rtx|red|ulpfec)$/i.test(codec.mimeType));
  if (chosen.length) transceiver.setCodecPreferences([...chosen, ...helpers]);
}

async function placeTracks(pc) {
  const [videoEnd, audioEnd] = pc.getTransceivers();
  await videoEnd.sender.replaceTrack(source?.stream.getVideoTracks()[0] ?? null);
  await audioEnd.sender.replaceTrack(source?.stream.getAudioTracks()[0] ?? null);
  limitBitrate(videoEnd.sender);
}

function limitBitrate(sender) {
  const parameters = sender.getParameters();
  if (!parameters.encodings?.length) return;
  parameters.encodings[0].maxBitrate = quality().bitrate;
  sender.setParameters(parameters).catch(() => {});
}

const keeper = new Keeper({
  kind: "whip",
  room,
  token,
  prepare(pc) {
    // One stream around both tracks (RFC 9725 section 4.4.2), its places kept when the source changes.
    const stream = new MediaStream();
    const videoEnd = pc.addTransceiver(source?.stream.getVideoTracks()[0] ?? "video", { direction: "sendonly", streams: [stream], sendEncodings: [{ maxBitrate: quality().bitrate }] });
    pc.addTransceiver(source?.stream.getAudioTracks()[0] ?? "audio", { direction: "sendonly", streams: [stream] });
    orderCodecs(videoEnd);
  },
  startBitrate: () => quality().bitrate / 2,
  onChange: show,
});

const events = new LiveEvents({
  room,
  token,
  onState(state) {
    keeper.onServer(state);
    renderServer(state);
  },
  onLine(up, problem) {
    if (!up) {
      keeper.onServerLost();
      renderServer(null);
      setText($("#server-hint"), problem?.status === 403 || problem?.status === 401 ? "not allowed to ask" : "no word from the server");
    }
  },
});

async function start(kind = kindChosen()) {
  if (keeper.running) return;
  const radio = $(`#kinds input[value="${kind}"]`);
  if (radio) radio.checked = true;
  renderKind();
  if (!token) {
    show("denied", NO_TOKEN);
    return;
  }
  if (source?.kind !== kind && !(await preview(kind))) return;
  // A click may have come in between.
  if (keeper.running) return;
  liveSince = null;
  keeper.token = token;
  events.token = token;
  events.start();
  keeper.start();
}

function stop() {
  keeper.stop();
}

// ---------------------------------------------------------------- states

const BADGES = { idle: "Idle", connecting: "Connecting", live: "LIVE", reconnecting: "Reconnecting", waiting: "Connecting", denied: "Not allowed", busy: "Room is busy", taken: "Taken over", failed: "Stopped" };
function show(next, said = {}) {
  const before = state;
  state = next;
  words = said;
  document.body.dataset.state = next;
  const running = ["connecting", "live", "reconnecting", "waiting"].includes(next);
  if (next === "live") liveSince ??= Date.now();
  if (!running) liveSince = null;
  setText($("#badge"), next === "denied" && !token ? "Token needed" : BADGES[next] ?? next);
  $("#badge").className = `badge ${next}`;
  const go = $("#go");
  setText(go, running ? "Stop" : next === "taken" ? "Take it back" : "Go live");
  go.classList.toggle("primary", !running);
  go.classList.toggle("stop", running);
  $("#codec").disabled = running;
  $("#token-form").hidden = next !== "denied";
  // With a picture on the stage the words stand over it, else in its place.
  const spoken = next === "live" || next === "idle" ? null : said;
  if (source || running) toast(spoken, running && next !== "live");
  else toast(null);
  if (!source) veil(running || !spoken ? {} : spoken);
  renderClock();
  if (before !== next) announce(`${BADGES[next] ?? next}. ${said.title ?? ""}`);
}

/** A line over the preview: what is going on, and when it goes on. */
function toast(said, spinning = false) {
  const title = said?.title ?? "";
  $("#toast").hidden = !title && !spinning;
  $("#toast-spinner").hidden = !spinning;
  setText($("#toast-title"), title || (spinning ? `${BADGES[state]}…` : ""));
  setText($("#toast-text"), said?.text ?? "");
}

function renderClock() {
  $("#clock").hidden = liveSince === null;
  if (liveSince !== null) setText($("#clock"), formatDuration(Date.now() - liveSince));
  const left = (words.retryAt ?? 0) - Date.now();
  if (left > 0 && state === "reconnecting") setText($("#toast-text"), `${words.text ? `${words.text} ` : ""}Trying again in ${Math.ceil(left / 1000)} s.`);
}
setInterval(renderClock, 250);

const past = [];

function renderServer(server) {
  const received = server?.received ?? null;
  const live = server?.live === true;
  setText($("#server-hint"), !server ? "" : live ? "" : "nothing yet");
  setText($("#bitrate"), live && received ? formatBitrate(received.bitrate_bps) : "–");
  setText($("#loss"), live && received ? formatRatio(received.loss_ratio) : "–");
  const interval = received?.keyframe_interval_ms;
  setText($("#keyframe"), live && interval > 0 ? `${(interval / 1000).toFixed(1)} s` : "–");
  setText($("#codec-in"), (live && received?.codec) || "–");
  setText($("#viewers-in"), Number.isFinite(server?.viewers) ? server.viewers.toLocaleString("en") : "–");
  const bad = live && received?.loss_ratio > LOSS_GOOD_RATIO;
  $("#loss").classList.toggle("warn", bad);
  // A browser makes keyframes when they are asked for; only another encoder can be set to a shorter interval.
  const rare = live && !keeper.running && interval > KEYFRAME_INTERVAL_GOOD_MS;
  $("#keyframe").classList.toggle("warn", rare);
  setText($("#advice"), bad ? "Packets are lost on the way to the server. A lower quality may help." : rare ? "Keyframes are far apart: viewers wait longer for their first picture. Set the encoder's interval to 2 s." : "");
  // One point per second; the server also speaks between, on changes.
  const now = Date.now();
  if (past.length === 0 || now - past.at(-1).at > 900) {
    past.push({ at: now, bps: live ? received?.bitrate_bps ?? 0 : 0 });
    if (past.length > HISTORY) past.shift();
    renderSpark();
  }
}

function renderSpark() {
  $("#spark").toggleAttribute("hidden", past.every(({ bps }) => bps === 0));
  const top = Math.max(500_000, ...past.map(({ bps }) => bps)) * 1.15;
  const points = past.map(({ bps }, place) => `${(120 - (past.length - 1 - place) * (120 / (HISTORY - 1))).toFixed(1)} ${(29.5 - (bps / top) * 29).toFixed(2)}`);
  const line = points.length > 1 ? `M${points.join("L")}` : "";
  $("#spark-line").setAttribute("d", line);
  $("#spark-fill").setAttribute("d", line ? `${line}L120 30L${points[0].split(" ")[0]} 30Z` : "");
}

// ---------------------------------------------------------------- sound meter

let analyser = null;
let listened = null;

function listen(stream) {
  listened?.disconnect();
  listened = null;
  analyser = null;
  const tracks = stream?.getAudioTracks() ?? [];
  if (!tracks.length) return;
  const context = sound();
  analyser = context.createAnalyser();
  analyser.fftSize = 1024;
  listened = context.createMediaStreamSource(new MediaStream(tracks));
  listened.connect(analyser);
}

const meter = $("#meter").getContext("2d");
const samples = new Float32Array(1024);
let level = 0;
let meterSaid = 0;

function drawMeter() {
  let peak = 0;
  if (analyser) {
    analyser.getFloatTimeDomainData(samples);
    for (const value of samples) peak = Math.max(peak, Math.abs(value));
  }
  // -60 dB to 0 dB on the scale; up at once, down slowly.
  const target = peak > 0 ? Math.min(1, Math.max(0, 1 + (20 * Math.log10(peak)) / 60)) : 0;
  level = Math.max(target, level - 0.02);
  const { width, height } = meter.canvas;
  const styles = getComputedStyle(meter.canvas);
  const bars = 40;
  const step = width / bars;
  meter.clearRect(0, 0, width, height);
  for (let bar = 0; bar < bars; bar += 1) {
    const name = bar / bars >= level ? "--meter-off" : bar > 36 ? "--live" : bar > 31 ? "--warn" : "--accent";
    meter.fillStyle = styles.getPropertyValue(name);
    meter.fillRect(bar * step, 0, step - 4, height);
  }
  const now = performance.now();
  if (now - meterSaid > 500) {
    meterSaid = now;
    $("#meter-value").value = level;
  }
  requestAnimationFrame(drawMeter);
}
drawMeter();

// ---------------------------------------------------------------- controls

function renderKind() {
  const kind = kindChosen();
  $("#camera-field").hidden = kind !== "camera";
  $("#microphone-field").hidden = kind === "pattern";
  if (!source) veil({});
}

$("#kinds").addEventListener("change", async () => {
  renderKind();
  const kind = kindChosen();
  if (source?.kind === kind) return;
  // Live, or the pattern, which needs nobody's permission: at once. A camera is switched on only when asked for.
  if (keeper.running || kind === "pattern") {
    if (!(await preview(kind)) && source) {
      $(`#kinds input[value="${source.kind}"]`).checked = true;
      renderKind();
    }
  } else {
    closeSource();
  }
});
for (const select of [camera, microphone, $("#quality")]) {
  select.addEventListener("change", () => source && source.kind !== "screen" && preview(source.kind));
}
$("#preview-button").addEventListener("click", () => preview());
$("#go").addEventListener("click", () => {
  if (keeper.running) stop();
  else start();
});
$("#token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("#token").value.trim();
  keepToken("publish", room, token);
  $("#token").value = "";
  show("idle");
  watchRoom();
});

const watchPath = `${location.origin}/watch/${encodeURIComponent(room)}`;
setText($("#link"), watchPath);
setText($("#share-hint"), viewToken ? "The copied link carries the view token: whoever has it can watch." : "Viewers also need a token:");
setText($("#share-command"), viewToken ? "" : `spillway token --room ${room} --role view`);
wireCopy($("#copy-link"), () => (viewToken ? `${watchPath}#token=${viewToken}` : watchPath));

// ---------------------------------------------------------------- start

/** The room's state is shown from the start: somebody may be live already. */
function watchRoom() {
  if (!token) return;
  events.stop();
  events.token = token;
  events.start();
}

addEventListener("pagehide", () => {
  keeper.halt();
  events.stop();
});
addEventListener("pageshow", (event) => {
  if (!event.persisted) return;
  show("idle");
  watchRoom();
});

window.spillway = {
  room,
  get state() { return state; },
  get errors() { return keeper.errors; },
  get live() { return keeper.server; },
  stats: async () => ({ ...(await keeper.stats()), latencyMs: null }),
  start,
  stop,
};

$("#insecure").hidden = secure;
if (!secure) {
  for (const kind of ["camera", "screen"]) $(`#kinds input[value="${kind}"]`).disabled = true;
  $('#kinds input[value="pattern"]').checked = true;
}
if (!navigator.mediaDevices?.getDisplayMedia) $('#kinds input[value="screen"]').disabled = true;
$("#codec").append(...Object.keys(CODECS).filter((name) => codecsNamed(name).length).map((name) => new Option(name, name)));
renderKind();
renderServer(null);
listDevices().catch(() => {});
if (auto) start(auto);
else if (token) watchRoom();
else show("denied", NO_TOKEN);
