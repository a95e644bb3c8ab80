// What all pages share: tokens, the room's live events, words for refusals, small helpers for the document.
// Nothing here touches the document or the network while it is loaded, so that the tests import it in node.

// ---------------------------------------------------------------- tokens

/** What a token says about itself. The page only reads it to help the user; the server decides. */
export function readToken(token) {
  const parts = String(token ?? "").trim().split(".");
  if (parts.length !== 3) return null;
  try {
    const base64 = parts[1].replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (typeof claims !== "object" || claims === null) return null;
    return {
      role: ["publish", "view", "admin"].includes(claims.role) ? claims.role : null,
      room: typeof claims.room === "string" ? claims.room : null,
      expiresAt: Number.isFinite(claims.exp) ? claims.exp * 1000 : null,
    };
  } catch {
    return null;
  }
}

/** The room of `/publish/{room}` and `/watch/{room}`. */
export function roomFromPath(path) {
  const part = path.split("/")[2] ?? "";
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

const SECRETS = ["token", "publish", "view"];

/** Splits a fragment into its fields and what may stay in the address bar: everything but the tokens. */
export function splitFragment(hash) {
  const fields = new URLSearchParams(hash.replace(/^#/, ""));
  const kept = new URLSearchParams();
  for (const [name, value] of fields) if (!SECRETS.includes(name)) kept.append(name, value);
  const rest = kept.toString();
  return { fields, rest: rest ? `#${rest}` : "" };
}

/** Reads the fragment and takes the tokens out of the address bar before anything else happens. */
export function takeFragment() {
  const { fields, rest } = splitFragment(location.hash);
  if (SECRETS.some((name) => fields.has(name))) {
    history.replaceState(null, "", location.pathname + location.search + rest);
  }
  return fields;
}

// Tokens live as long as the tab: a reload works, and nothing stays behind on a shared machine.
const storageKey = (role, room) => `spillway.${role}.${room}`;

export function keepToken(role, room, token) {
  try {
    if (token) sessionStorage.setItem(storageKey(role, room), token);
    else sessionStorage.removeItem(storageKey(role, room));
  } catch {
    // Storage may be switched off; then a reload asks for the token again.
  }
}

export function keptToken(role, room) {
  try {
    return sessionStorage.getItem(storageKey(role, room)) ?? "";
  } catch {
    return "";
  }
}

// ---------------------------------------------------------------- waiting

/** Doubling delays with jitter, so that a thousand pages do not come back in the same instant. */
export class Backoff {
  constructor({ first = 500, longest = 8000, random = Math.random } = {}) {
    this.first = first;
    this.longest = longest;
    this.random = random;
    this.tries = 0;
  }

  /** The next delay in milliseconds: 0.7 to 1.3 times first * 2^tries, at most `longest`. */
  next() {
    const middle = Math.min(this.longest, this.first * 2 ** Math.min(this.tries, 20));
    this.tries += 1;
    return Math.min(this.longest, Math.round(middle * (0.7 + 0.6 * this.random())));
  }

  reset() {
    this.tries = 0;
  }
}

/** A delay that the server asked for, plus up to 30 %: never earlier than asked. */
export function jittered(seconds, random = Math.random) {
  return Math.round(seconds * 1000 * (1 + 0.3 * random()));
}

// ---------------------------------------------------------------- refusals

/** A request that was not granted. `status` 0: nobody answered. */
export class Problem extends Error {
  constructor({ status = 0, code = "", title = "", detail = "", retryAfter = null } = {}) {
    super(title || code || `status ${status}`);
    Object.assign(this, { status, code, title, detail, retryAfter });
  }

  static async from(response) {
    let body = {};
    try {
      body = (await response.json()) ?? {};
    } catch {
      // Not problem+json: the status alone has to do.
    }
    const header = Number.parseFloat(response.headers.get("Retry-After"));
    const wait = Number.isFinite(body.retry_after_seconds) ? body.retry_after_seconds : header;
    return new Problem({
      status: response.status,
      code: String(body.code ?? ""),
      title: String(body.title ?? ""),
      detail: String(body.detail ?? ""),
      retryAfter: Number.isFinite(wait) && wait >= 0 ? Math.min(wait, 60) : null,
    });
  }
}

/**
 * What a refusal means for the page: the state it goes to, the words it shows, and when it tries again:
 * `wait` in seconds, "backoff", or null for "not by itself".
 */
export function explain(problem, kind) {
  const { status, code, title, detail, retryAfter } = problem;
  const task = kind === "whip" ? "publish to" : "watch";
  if (status === 0) {
    return { state: "reconnecting", title: "Server unreachable", text: "Nobody answers at this address.", wait: "backoff" };
  }
  if (status === 401) {
    return { state: "denied", title: "A token is needed", text: detail || `To ${task} this room, open the link you were given, or enter its token.`, wait: null };
  }
  if (status === 403) {
    return { state: "denied", title: "Not allowed", text: detail || `This token does not allow you to ${task} this room.`, wait: null };
  }
  if (code === "stream_not_live") {
    return { state: "waiting", title: "Waiting for publisher", text: "The picture appears by itself as soon as somebody goes live.", wait: retryAfter ?? 2 };
  }
  if (code === "room_busy") {
    return { state: "busy", title: "Somebody else is live", text: detail || "Another publisher holds this room. Try again when it has stopped.", wait: null };
  }
  if (code === "no_common_codec") {
    return { state: "failed", title: "No common codec", text: detail || "This browser and the stream have no codec in common.", wait: null };
  }
  if (code === "engine_restarting") {
    return { state: "reconnecting", title: "Server is restarting", text: "It will be back in a moment.", wait: retryAfter ?? 1 };
  }
  if (status === 429 || code === "room_full" || (status === 503 && retryAfter !== null)) {
    return { state: "reconnecting", title: title || "The server is full", text: detail || "Trying again by itself.", wait: retryAfter ?? 5 };
  }
  if (status >= 500) {
    return { state: "reconnecting", title: title || "The server has a problem", text: detail, wait: retryAfter ?? "backoff" };
  }
  return { state: "failed", title: title || `The server refused (${status})`, text: detail, wait: null };
}

// ---------------------------------------------------------------- live events

/** Lines of `text/event-stream` to events. Feed it text in any pieces. */
export class EventParser {
  constructor() {
    this.rest = "";
    this.name = "";
    this.data = [];
  }

  /** The complete events in what was fed so far: [{name, data}]. */
  push(text) {
    const events = [];
    this.rest += text;
    const lines = this.rest.split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.data.length) events.push({ name: this.name || "message", data: this.data.join("\n") });
        this.name = "";
        this.data = [];
      } else if (!line.startsWith(":")) {
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") this.name = value;
        if (field === "data") this.data.push(value);
      }
    }
    return events;
  }
}

// The server says something every second; after five seconds of silence the line is dead.
const SILENCE_MS = 5000;

/**
 * The room's state as the server sees it, once a second. It reconnects by itself and never touches the media:
 * a restart of the control service is nothing that playback has to notice.
 */
export class LiveEvents {
  /** `onState(state)` for each event; `onLine(up, problem)` when the line comes or goes. */
  constructor({ room, token, onState, onLine = () => {} }) {
    Object.assign(this, { room, token, onState, onLine });
    this.backoff = new Backoff({ first: 400, longest: 5000 });
    this.stopped = true;
    this.turn = 0;
  }

  start() {
    if (!this.stopped) return;
    this.stopped = false;
    this.turn += 1;
    this.run(this.turn);
  }

  stop() {
    this.stopped = true;
    this.abort?.abort();
  }

  async run(turn) {
    const over = () => this.stopped || this.turn !== turn;
    while (!over()) {
      let problem = null;
      try {
        await this.read(over);
      } catch (error) {
        problem = error instanceof Problem ? error : new Problem();
      }
      if (over()) return;
      this.onLine(false, problem);
      // A token that is refused stays refused.
      if (problem?.status === 401 || problem?.status === 403) {
        this.stopped = true;
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, this.backoff.next()));
    }
  }

  async read(over) {
    const abort = new AbortController();
    this.abort = abort;
    let watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
    try {
      const response = await fetch(`/v1/rooms/${encodeURIComponent(this.room)}/live`, {
        headers: { Authorization: `Bearer ${this.token}`, Accept: "text/event-stream" },
        cache: "no-store",
        signal: abort.signal,
      });
      if (!response.ok) throw await Problem.from(response);
      const parser = new EventParser();
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return;
        clearTimeout(watchdog);
        watchdog = setTimeout(() => abort.abort(), SILENCE_MS);
        for (const { name, data } of parser.push(value)) {
          if (name !== "state") continue;
          if (over()) return;
          const state = JSON.parse(data);
          this.backoff.reset();
          this.onLine(true, null);
          this.onState(state);
        }
      }
    } finally {
      clearTimeout(watchdog);
      abort.abort();
    }
  }
}

// ---------------------------------------------------------------- words for numbers

export function formatBitrate(bps) {
  if (!Number.isFinite(bps)) return "–";
  if (bps >= 995_000) return `${(bps / 1e6).toFixed(bps >= 9.95e6 ? 0 : 1)} Mbit/s`;
  return `${Math.round(bps / 1000)} kbit/s`;
}

export function formatRatio(ratio) {
  if (!Number.isFinite(ratio)) return "–";
  const percent = ratio * 100;
  return `${percent === 0 || percent >= 9.95 ? Math.round(percent) : percent < 0.095 ? percent.toFixed(2) : percent.toFixed(1)} %`;
}

export function formatDuration(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  return `${hours ? `${hours}:` : ""}${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
}

export function formatViewers(count) {
  return Number.isFinite(count) ? `${count.toLocaleString("en")} watching` : "";
}

// ---------------------------------------------------------------- document

export const $ = (selector) => document.querySelector(selector);

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard outside of secure contexts: the old way, from a field that is not seen.
    const field = document.createElement("textarea");
    field.value = text;
    field.className = "visually-hidden";
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** A button that copies what `text()` returns, and says so for a moment. */
export function wireCopy(button, text) {
  const label = button.querySelector("span") ?? button;
  const before = label.textContent;
  let timer;
  button.addEventListener("click", async () => {
    const done = await copyText(text());
    label.textContent = done ? "Copied" : "Not copied";
    button.classList.toggle("done", done);
    announce(done ? "Copied to the clipboard" : "Could not copy");
    clearTimeout(timer);
    timer = setTimeout(() => {
      label.textContent = before;
      button.classList.remove("done");
    }, 1600);
  });
}

/** Says something to screen readers, once per change. */
export function announce(text) {
  const place = document.getElementById("announcer");
  if (place && place.textContent !== text) place.textContent = text;
}

export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
