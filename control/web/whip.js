// WHIP and WHEP: one session at a time, kept alive. `Link` is one peer connection and its session on the server;
// `Keeper` opens links, watches them and opens another one when the server or the network went away.

import { Backoff, Problem, explain, jittered } from "./common.js";

const POST_MAX_MS = 10_000;
const CONNECT_MAX_MS = 8000;
const GATHER_MAX_MS = 3000;
/** No packet for so long, though the stream is live: the session is dead. */
const SILENCE_MAX_MS = 2000;
/** The publisher hears only checks and reports, which come less often than media. */
const SILENCE_PUBLISHER_MAX_MS = 6000;
const WATCH_EVERY_MS = 400;
/** The server says "not live" for so long, though we send. */
const UNHEARD_MAX_MS = 1500;
/** After a goodbye the server's word counts as news only from here on. */
const GOODBYE_SETTLED_MS = 1200;
const GOODBYE_MAX_MS = 3000;
/** A link that lasted so long was a good one: the next trouble starts with short delays again. */
const STEADY_MS = 5000;

/** Opus in the offer with two channels; otherwise Chromium plays every stream in mono. */
export function withStereo(sdp) {
  const types = [...sdp.matchAll(/^a=rtpmap:(\d+) opus\/48000\/2\r?$/gim)].map((match) => match[1]);
  return sdp.replace(/^a=fmtp:(\d+) (.*?)(\r?)$/gm, (line, type, parameters, end) =>
    types.includes(type) && !/(^|;)\s*stereo=/.test(parameters) ? `a=fmtp:${type} ${parameters};stereo=1${end}` : line);
}

/**
 * The answer with a bitrate to begin with. Chromium starts at 300 kbit/s and, with receiver reports alone, grows by
 * 8 % per second: the first half minute would be a blur. Other browsers ignore the parameter.
 */
export function withStartBitrate(sdp, bps) {
  const sections = sdp.split(/^(?=m=)/m);
  return sections.map((section) => {
    const type = section.match(/^m=video \d+ \S+ (\d+)/)?.[1];
    if (!type) return section;
    const parameter = `x-google-start-bitrate=${Math.round(bps / 1000)}`;
    const fmtp = new RegExp(`^(a=fmtp:${type} [^\r\n]*)`, "m");
    if (fmtp.test(section)) return section.replace(fmtp, `$1;${parameter}`);
    return section.replace(new RegExp(`^(a=rtpmap:${type} [^\r\n]*)(\r?\n)`, "m"), `$1$2a=fmtp:${type} ${parameter}$2`);
  }).join("");
}

const DESCRIPTOR = "https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension";

/** Offers AV1's dependency descriptor, which Chromium knows and leaves out: layers cannot be told apart without it. */
function offerDescriptor(transceiver) {
  const extensions = transceiver.getHeaderExtensionsToNegotiate?.() ?? [];
  const descriptor = extensions.find((extension) => extension.uri === DESCRIPTOR && extension.direction === "stopped");
  if (!descriptor) return;
  descriptor.direction = "sendrecv";
  transceiver.setHeaderExtensionsToNegotiate(extensions);
}

class Link {
  constructor({ kind, room, token, prepare, startBitrate, onTrack }) {
    Object.assign(this, { kind, room, token, startBitrate });
    this.createdAt = performance.now();
    this.openedAt = null;
    this.connectedAt = null;
    this.location = null;
    this.candidates = 0;
    this.closed = false;
    this.pc = new RTCPeerConnection({ bundlePolicy: "max-bundle" });
    this.pc.addEventListener("icecandidate", ({ candidate }) => {
      if (candidate?.candidate) this.candidates += 1;
    });
    this.pc.addEventListener("connectionstatechange", () => {
      if (this.pc.connectionState === "connected") this.connectedAt ??= performance.now();
    });
    this.pc.addEventListener("track", (event) => onTrack?.(event, this));
    prepare(this.pc);
    this.pc.getTransceivers().forEach(offerDescriptor);
  }

  /** Offer, POST, answer. The server's candidates stand in the answer, so nothing has to be gathered first. */
  async open() {
    const offer = await this.pc.createOffer();
    if (this.kind === "whep") offer.sdp = withStereo(offer.sdp);
    await this.pc.setLocalDescription(offer);
    const signal = AbortSignal.timeout(POST_MAX_MS);
    let response;
    try {
      response = await fetch(`/${this.kind}/${encodeURIComponent(this.room)}`, {
        method: "POST",
        headers: { "Content-Type": "application/sdp", Authorization: `Bearer ${this.token}` },
        body: this.pc.localDescription.sdp,
        signal,
      });
    } catch {
      throw new Problem();
    }
    if (response.status !== 201) throw await Problem.from(response);
    this.location = response.headers.get("Location");
    // The body may still break off: then the session has to be given back.
    const sdp = await response.text().catch(() => Promise.reject(new Problem()));
    if (this.closed) {
      this.release();
      return;
    }
    try {
      await this.pc.setRemoteDescription({ type: "answer", sdp: this.startBitrate ? withStartBitrate(sdp, this.startBitrate()) : sdp });
    } catch (error) {
      throw new Problem({ status: 201, title: "The server's answer was not understood", detail: String(error.message ?? error) });
    }
    this.openedAt = performance.now();
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    this.pc.close();
    this.release();
  }

  /** Gives the session back; `keepalive` lets the request outlive the page. */
  release() {
    if (!this.location) return;
    fetch(this.location, { method: "DELETE", keepalive: true, headers: { Authorization: `Bearer ${this.token}` } }).catch(() => {});
    this.location = null;
  }

  get dtlsState() {
    const end = this.pc.getTransceivers()[0];
    return (end?.receiver?.transport ?? end?.sender?.transport)?.state ?? "new";
  }
}

/** The browser's report as the numbers that pages and tests use. */
export function summarize(report) {
  const sum = {
    framesDecoded: 0, framesPerSecond: 0, frameWidth: 0, frameHeight: 0, framesEncoded: 0,
    packetsReceived: 0, packetsLost: 0, bytesReceived: 0, packetsSent: 0, bytesSent: 0, audioEnergy: 0,
    srtpCipher: null, dtlsState: "new", codec: null, decoder: null, roundTripMs: null, jitterBufferMs: null,
    freezes: 0, keyframes: 0, nacks: 0, plis: 0, videoPackets: 0, path: null, heard: 0,
  };
  const all = [...report.values()];
  const byId = (id) => all.find((entry) => entry.id === id);
  for (const entry of all) {
    const video = entry.kind === "video";
    if (entry.type === "inbound-rtp") {
      sum.packetsReceived += entry.packetsReceived ?? 0;
      sum.packetsLost += entry.packetsLost ?? 0;
      sum.bytesReceived += entry.bytesReceived ?? 0;
      sum.audioEnergy += entry.totalAudioEnergy ?? 0;
    }
    if (entry.type === "outbound-rtp") {
      sum.packetsSent += entry.packetsSent ?? 0;
      sum.bytesSent += entry.bytesSent ?? 0;
    }
    if (entry.type === "media-source" && entry.kind === "audio") sum.audioEnergy += entry.totalAudioEnergy ?? 0;
    if (video && (entry.type === "inbound-rtp" || entry.type === "outbound-rtp")) {
      sum.framesDecoded = entry.framesDecoded ?? sum.framesDecoded;
      sum.framesEncoded = entry.framesEncoded ?? sum.framesEncoded;
      sum.framesPerSecond = entry.framesPerSecond ?? sum.framesPerSecond;
      sum.frameWidth = entry.frameWidth ?? sum.frameWidth;
      sum.frameHeight = entry.frameHeight ?? sum.frameHeight;
      sum.codec = byId(entry.codecId)?.mimeType?.split("/")[1] ?? sum.codec;
      sum.decoder = entry.decoderImplementation ?? sum.decoder;
      sum.freezes = entry.freezeCount ?? sum.freezes;
      sum.keyframes = entry.keyFramesDecoded ?? entry.keyFramesEncoded ?? sum.keyframes;
      sum.nacks = entry.nackCount ?? sum.nacks;
      sum.plis = entry.pliCount ?? sum.plis;
      sum.videoPackets = entry.packetsReceived ?? sum.videoPackets;
      if (entry.jitterBufferEmittedCount > 0) {
        sum.jitterBufferMs = Math.round((entry.jitterBufferDelay / entry.jitterBufferEmittedCount) * 1000);
      }
    }
    if (entry.type === "transport") {
      sum.srtpCipher = entry.srtpCipher ?? null;
      sum.dtlsState = entry.dtlsState ?? "new";
      const pair = byId(entry.selectedCandidatePairId);
      sum.heard = (entry.packetsReceived ?? 0) + (pair?.responsesReceived ?? 0) + (pair?.requestsReceived ?? 0);
      if (Number.isFinite(pair?.currentRoundTripTime)) sum.roundTripMs = Math.round(pair.currentRoundTripTime * 1000);
      const here = byId(pair?.localCandidateId);
      if (here) sum.path = `${(here.protocol ?? "udp").toUpperCase()} ${here.candidateType}`;
    }
  }
  return sum;
}

/**
 * Keeps one session going. States: idle, connecting, live, waiting, reconnecting, and the ones it does not leave
 * by itself: denied, busy, taken (another publisher of the same name took over), failed.
 */
export class Keeper {
  /**
   * `prepare(pc)` adds the tracks or transceivers; `startBitrate()` in bit/s, for publishers;
   * `onChange(state, words)` with `words` = {title, text, retryAt};
   * `onTrack(event)`; `onLosing()` just before a link with a picture is closed.
   */
  constructor({ kind, room, token, prepare, startBitrate, onChange, onTrack, onLosing = () => {} }) {
    Object.assign(this, { kind, room, token, prepare, startBitrate, onChange, onTrack, onLosing });
    this.state = "idle";
    this.link = null;
    this.posts = 0;
    this.errors = [];
    this.server = null;
    this.epoch = null;
    this.epochAt = -Infinity;
    this.obstacle = null;
    this.backoff = new Backoff();
    this.onlineAgain = () => this.hurry();
  }

  start() {
    if (this.running) return;
    this.running = true;
    this.wasLive = false;
    this.obstacle = null;
    this.backoff.reset();
    this.watcher = setInterval(() => this.watch(), WATCH_EVERY_MS);
    addEventListener("online", this.onlineAgain);
    this.attempt();
  }

  stop() {
    this.halt();
    this.set("idle", {});
  }

  /** Ends all activity in the state that `words` describe. */
  halt() {
    this.running = false;
    clearInterval(this.watcher);
    clearTimeout(this.timer);
    this.timer = null;
    removeEventListener("online", this.onlineAgain);
    this.link?.close();
    this.link = null;
  }

  set(state, words = {}) {
    const key = JSON.stringify([state, words]);
    if (key === this.shown) return;
    this.shown = key;
    this.state = state;
    this.onChange(state, words);
  }

  note(code, text) {
    this.errors.push({ at: new Date().toISOString(), code, text });
    if (this.errors.length > 50) this.errors.shift();
  }

  async attempt() {
    clearTimeout(this.timer);
    this.timer = null;
    // What stood in the way last time is still the best explanation, until the link is up.
    this.set(this.wasLive ? "reconnecting" : "connecting", this.obstacle ?? {});
    this.counted = 0;
    this.countedAt = null;
    this.unheardSince = null;
    let link;
    try {
      this.posts += 1;
      link = new Link({ ...this, onTrack: (event, from) => from === this.link && this.onTrack?.(event) });
      this.link = link;
      await link.open();
    } catch (error) {
      link?.close();
      if (!this.running || (link && this.link !== link)) return;
      this.link = null;
      this.refused(error instanceof Problem ? error : new Problem({ status: 1, title: "This browser could not connect", detail: String(error.message ?? error) }));
    }
  }

  refused(problem) {
    this.note(problem.code || String(problem.status), problem.detail || problem.title);
    const { state, title, text, wait } = explain(problem, this.kind);
    if (wait === null) {
      this.halt();
      this.set(state, { title, text });
      return;
    }
    const delay = wait === "backoff" ? this.backoff.next() : jittered(wait);
    // While it never played, "waiting" and "connecting" are the honest words; a countdown shows only for trouble.
    this.later(delay, state, { title, text });
  }

  later(delay, state, words) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.attempt(), delay);
    this.set(state, { ...words, retryAt: Date.now() + delay });
  }

  /** Tries at once when something waits for its time: the network is back, the user is impatient. */
  hurry() {
    if (this.running && this.timer !== null) this.attempt();
  }

  /** Closes the link and opens another one: at once if this one was good, else with growing delays. */
  renew(code, words) {
    if (!this.running || !this.link) return;
    this.note(code, words.title);
    this.onLosing();
    const steady = this.link.connectedAt !== null && performance.now() - this.link.connectedAt > STEADY_MS;
    this.link.close();
    this.link = null;
    if (steady) {
      this.backoff.reset();
      this.attempt();
    } else {
      this.later(this.backoff.next(), "reconnecting", words);
    }
  }

  /** The room's state from the server, about once a second. */
  onServer(server) {
    const now = performance.now();
    const before = this.server;
    this.server = server;
    this.serverAt = now;
    if (server.live && !before?.live) this.liveSince = now;
    const epoch = server.epoch ?? null;
    if (epoch !== null) {
      const changed = this.epoch !== null && epoch !== this.epoch;
      // A link opened after the old epoch was last seen already belongs to the new one.
      if (changed && this.link?.openedAt && this.link.openedAt <= this.epochAt) {
        this.renew("epoch", { title: "The server has restarted", text: "" });
      }
      this.epoch = epoch;
      this.epochAt = now;
    }
    // The stream came: no need to wait for the end of Retry-After, but not all viewers in the same instant.
    const came = server.live && before?.live === false;
    if (this.running && this.kind === "whep" && came && this.state === "waiting" && this.timer !== null) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.attempt(), 300 * Math.random());
    }
  }

  /** The line of live events is down: what it said last no longer counts. */
  onServerLost() {
    this.server = null;
    this.unheardSince = null;
  }

  /** Looks at the link a few times a second. */
  async watch() {
    const { link } = this;
    if (!link || link.openedAt === null || this.watching) return;
    this.watching = true;
    try {
      const numbers = summarize(await link.pc.getStats());
      if (this.running && this.link === link) this.judge(link, numbers);
    } finally {
      this.watching = false;
    }
  }

  judge(link, numbers) {
    const now = performance.now();
    if (link.connectedAt === null) {
      if (link.pc.connectionState === "failed" || now - link.openedAt > CONNECT_MAX_MS) {
        this.obstacle = link.candidates === 0 ? NO_INTERFACE : NO_PATH;
        this.renew("connect", this.obstacle);
      } else if (link.candidates === 0 && now - link.openedAt > GATHER_MAX_MS) {
        this.set(this.state, NO_INTERFACE);
      }
      return;
    }
    this.obstacle = null;
    const count = this.kind === "whep" ? numbers.packetsReceived : numbers.heard;
    if (count > this.counted) {
      this.counted = count;
      this.countedAt = now;
    }
    if (now - link.connectedAt > STEADY_MS) this.backoff.reset();
    if (this.kind === "whep") this.judgeViewer(link, numbers, now);
    else this.judgePublisher(link, now);
  }

  judgeViewer(link, numbers, now) {
    const silent = now - Math.max(this.countedAt ?? 0, link.connectedAt, this.liveSince ?? 0);
    if (this.server?.live === false) {
      // The session is kept: the same publisher may come back any moment.
      if (now - Math.max(this.countedAt ?? 0, link.connectedAt) > 1000) {
        this.set("waiting", { title: "Waiting for publisher", text: "The picture appears by itself as soon as somebody goes live." });
      }
      return;
    }
    if (silent > SILENCE_MAX_MS || link.pc.connectionState === "failed") {
      this.renew("silence", { title: "The picture stopped", text: "" });
      return;
    }
    const pictures = numbers.framesDecoded > 0;
    const soundOnly = this.counted > 0 && numbers.videoPackets === 0 && now - link.connectedAt > SILENCE_MAX_MS;
    if (this.countedAt !== null && now - this.countedAt < 1000 && (pictures || soundOnly)) this.live();
  }

  judgePublisher(link, now) {
    const state = link.pc.connectionState;
    if (link.dtlsState === "closed" || state === "closed") {
      // The server said goodbye. A server that restarts or ends the stream says so by another epoch, and `onServer`
      // comes back by itself; the same epoch means that somebody else holds the room now: do not fight. Whether
      // the newcomer is live already says nothing: it may take longer than any patience of ours.
      link.saidGoodbyeAt ??= now;
      if (this.server && this.serverAt - link.saidGoodbyeAt > GOODBYE_SETTLED_MS) {
        this.note("taken", "another publisher took over");
        this.halt();
        this.set("taken", { title: "Taken over", text: "Another publisher with the same token has this room now." });
      } else if (now - link.saidGoodbyeAt > GOODBYE_MAX_MS) {
        this.renew("goodbye", { title: "The server closed the session", text: "" });
      }
      return;
    }
    if (state === "disconnected") link.disconnectedAt ??= now;
    else link.disconnectedAt = null;
    const silent = now - Math.max(this.countedAt ?? 0, link.connectedAt);
    const cut = link.disconnectedAt !== null && now - link.disconnectedAt > 1000;
    if (state === "failed" || cut || silent > SILENCE_PUBLISHER_MAX_MS) {
      this.renew("connection", { title: "Connection lost", text: "" });
      return;
    }
    if (this.server?.live === false && now - link.connectedAt > 2 * UNHEARD_MAX_MS) {
      this.unheardSince ??= now;
      if (now - this.unheardSince > UNHEARD_MAX_MS) {
        this.renew("unheard", { title: "The server does not hear us", text: "" });
      }
      return;
    }
    this.unheardSince = null;
    if (this.server?.live !== false) this.live();
  }

  live() {
    this.wasLive = true;
    this.set("live", {});
  }

  async stats() {
    const report = this.link && !this.link.closed ? await this.link.pc.getStats() : new Map();
    return { ...summarize(report), posts: this.posts };
  }
}

const NO_INTERFACE = {
  title: "This browser found no network interface",
  text: "To reach a server on this machine, a browser needs at least one network interface besides loopback. Connect to any network, or open this page from another device.",
};
const NO_PATH = {
  title: "The media port cannot be reached",
  text: "The server answers, but no UDP packet comes through. A firewall may be in the way.",
};
