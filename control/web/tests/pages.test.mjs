// Goal: the parts of the pages that need no browser do what the server and the clip promise.
// Method: the modules as the pages load them, with made-up inputs. Run: node --test control/web/tests/*.mjs

import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff, EventParser, Problem, explain, formatBitrate, formatDuration, formatRatio, jittered, readToken, roomFromPath, splitFragment } from "../common.js";
import { CELLS, FRAMES, cellsOf, frameAt, latencyOf, medianAge, nextBeep, readCells } from "../latency.js";
import { Keeper, summarize, withStartBitrate, withStereo } from "../whip.js";

const SAMPLE = 8;

/** A picture of the row for frame k as the browser would hand it out, with `noise(x, y)` added. */
function picture(cells, noise = () => 0) {
  const width = CELLS * SAMPLE;
  const rgba = new Uint8ClampedArray(width * SAMPLE * 4);
  for (let y = 0; y < SAMPLE; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const light = (cells[Math.floor(x / SAMPLE)] ? 235 : 16) + noise(x, y);
      rgba.set([light, light, light, 255], (y * width + x) * 4);
    }
  }
  return rgba;
}

test("every frame number survives its cells, also through blur at the edges", () => {
  for (let k = 0; k < FRAMES; k += 1) {
    const cells = cellsOf(k);
    assert.equal(readCells(picture(cells)), k);
    const edge = (x) => (x % SAMPLE === 0 ? (cells[Math.floor(x / SAMPLE)] ? -120 : 120) : ((x * 7) % 21) - 10);
    assert.equal(readCells(picture(cells, edge)), k);
  }
});

test("the cells are the clip's: frame 165 is 010100101 with even parity", () => {
  const row = cellsOf(165).map((white) => (white ? "1" : "0")).join("");
  assert.equal(row, "10" + "010100101" + "0");
  assert.equal(cellsOf(1).at(-1), true);
});

test("a picture without a valid row reads as nothing", () => {
  const cells = cellsOf(123);
  for (let cell = 0; cell < CELLS; cell += 1) {
    const wrong = cells.with ? cells.with(cell, !cells[cell]) : cells.map((white, at) => (at === cell ? !white : white));
    assert.equal(readCells(picture(wrong)), null, `cell ${cell} turned over`);
  }
  assert.equal(readCells(picture(cells, (x) => (x < SAMPLE ? -110 : 0))), null, "a grey cell");
  assert.equal(readCells(picture(cellsOf(300))), null, "a number beyond the loop");
  assert.equal(readCells(new Uint8ClampedArray(16)), null, "too few pixels");
});

test("latency is the age of the frame modulo the loop", () => {
  const start = 1_700_000_000_000;
  assert.equal(start % 10_000, 0);
  assert.equal(frameAt(start), 0);
  assert.equal(frameAt(start + 9_999), 299);
  assert.equal(latencyOf(30, start + 1_200), 200);
  assert.equal(Math.round(latencyOf(299, start + 10_100)), 133);
  assert.equal(Math.round(latencyOf(0, start - 1)), 9_999);
});

test("the median of ages does not jump at the seam of the loop", () => {
  assert.equal(medianAge([]), null);
  assert.equal(medianAge([90, 5000, 110, 100, 95]), 100);
  assert.equal(medianAge([9_990, 10, 9_995, 5, 0]), 0);
  assert.equal(medianAge([10, 9_990, 9_995, 5, 0]), 0);
});

test("backoff doubles, keeps its bounds and starts again after reset", () => {
  for (const random of [0, 0.5, 0.999]) {
    const backoff = new Backoff({ first: 500, longest: 8000, random: () => random });
    const delays = Array.from({ length: 40 }, () => backoff.next());
    delays.forEach((delay, tries) => {
      const middle = Math.min(8000, 500 * 2 ** tries);
      assert.ok(delay >= Math.floor(middle * 0.7) && delay <= 8000, `try ${tries} waits ${delay}`);
    });
    backoff.reset();
    assert.equal(backoff.next(), delays[0]);
  }
  assert.notEqual(new Backoff({ random: () => 0 }).next(), new Backoff({ random: () => 0.9 }).next());
});

test("a wait that the server asked for is never shortened", () => {
  for (const random of [0, 0.3, 0.999]) {
    const delay = jittered(2, () => random);
    assert.ok(delay >= 2000 && delay <= 2600, String(delay));
  }
});

const token = (claims) => `${btoa("{}")}.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.sig`;

test("a token's role, room and end are read, whatever its letters", () => {
  assert.deepEqual(readToken(token({ role: "publish", room: "démo ✓", exp: 1_700_000_000 })), { role: "publish", room: "démo ✓", expiresAt: 1_700_000_000_000 });
  assert.deepEqual(readToken(` ${token({ role: "king" })} `), { role: null, room: null, expiresAt: null });
});

test("what is no token is no token", () => {
  for (const text of ["", null, undefined, "abc", "a.b", "a.!.c", "a.bnVsbA.c", `a.${btoa("[")}.c`, "a.b.c.d"]) assert.equal(readToken(text), null, String(text));
});

test("tokens leave the address bar, everything else stays", () => {
  const { fields, rest } = splitFragment("#token=a.b.c&auto=camera&view=d.e.f");
  assert.equal(fields.get("token"), "a.b.c");
  assert.equal(rest, "#auto=camera");
  assert.equal(splitFragment("#token=x").rest, "");
  assert.equal(splitFragment("").rest, "");
});

test("the room stands in the path, whatever its letters", () => {
  assert.equal(roomFromPath("/watch/demo"), "demo");
  assert.equal(roomFromPath("/watch/b%C3%BChne%201"), "bühne 1");
  assert.equal(roomFromPath("/watch/%zz"), "%zz");
  assert.equal(roomFromPath("/"), "");
});

test("refusals: who waits, who tries again, who stops", () => {
  const of = (status, code = "", retryAfter = null, kind = "whep") => {
    const { state, wait } = explain(new Problem({ status, code, retryAfter }), kind);
    return [state, wait];
  };
  assert.deepEqual(of(0), ["reconnecting", "backoff"]);
  assert.deepEqual(of(401), ["denied", null]);
  assert.deepEqual(of(403), ["denied", null]);
  assert.deepEqual(of(409, "stream_not_live", 2), ["waiting", 2]);
  assert.deepEqual(of(409, "room_busy", null, "whip"), ["busy", null]);
  assert.deepEqual(of(422, "no_common_codec"), ["failed", null]);
  assert.deepEqual(of(503, "engine_restarting", 1), ["reconnecting", 1]);
  assert.deepEqual(of(503, "node_full", 7), ["reconnecting", 7]);
  assert.deepEqual(of(409, "room_full", 10), ["reconnecting", 10]);
  assert.deepEqual(of(504), ["reconnecting", "backoff"]);
  assert.deepEqual(of(413), ["failed", null]);
  assert.notEqual(explain(new Problem({ status: 403 }), "whip").text, explain(new Problem({ status: 403 }), "whep").text);
});

test("a problem is read from its body, or from the bare status", async () => {
  const full = await Problem.from(new Response('{"code":"room_busy","title":"Busy","detail":"d","retry_after_seconds":3}', { status: 409 }));
  assert.deepEqual([full.status, full.code, full.title, full.retryAfter], [409, "room_busy", "Busy", 3]);
  const bare = await Problem.from(new Response("<html>", { status: 503, headers: { "Retry-After": "1" } }));
  assert.deepEqual([bare.code, bare.retryAfter], ["", 1]);
  const wild = await Problem.from(new Response('{"retry_after_seconds":1e9}', { status: 503 }));
  assert.equal(wild.retryAfter, 60);
  assert.equal((await Problem.from(new Response("null", { status: 500 }))).retryAfter, null);
});

test("events come out whole, however the text is cut", () => {
  const text = ": hello\n\nevent: state\ndata: {\"live\":true}\n\nevent: state\r\ndata: a\r\ndata: b\r\n\r\ndata\n\n";
  const whole = new EventParser().push(text);
  assert.deepEqual(whole, [{ name: "state", data: '{"live":true}' }, { name: "state", data: "a\nb" }, { name: "message", data: "" }]);
  for (let size = 1; size < 9; size += 1) {
    const parser = new EventParser();
    const events = [];
    for (let at = 0; at < text.length; at += size) events.push(...parser.push(text.slice(at, at + size)));
    assert.deepEqual(events, whole, `pieces of ${size}`);
  }
});

test("the offer asks for stereo once, and only for Opus", () => {
  const sdp = "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:96 VP8/90000\r\na=fmtp:97 apt=96\r\n";
  const once = withStereo(sdp);
  assert.match(once, /a=fmtp:111 minptime=10;useinbandfec=1;stereo=1\r\n/);
  assert.match(once, /a=fmtp:97 apt=96\r\n/);
  assert.equal(withStereo(once), once);
});

test("the answer begins with a bitrate, with and without parameters of the codec", () => {
  const audio = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";
  const vp8 = `${audio}m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\n`;
  assert.equal(withStartBitrate(vp8, 1_250_000), `${vp8}a=fmtp:96 x-google-start-bitrate=1250\r\n`);
  const h264 = `${audio}m=video 9 UDP/TLS/RTP/SAVPF 102\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 profile-level-id=42e01f\r\n`;
  assert.match(withStartBitrate(h264, 900_000), /a=fmtp:102 profile-level-id=42e01f;x-google-start-bitrate=900\r\n/);
  assert.equal(withStartBitrate(audio, 1), audio);
});

test("reports of both directions become one set of numbers", () => {
  const report = new Map(Object.entries({
    v: { id: "v", type: "inbound-rtp", kind: "video", codecId: "c", packetsReceived: 10, packetsLost: 1, bytesReceived: 100, framesDecoded: 5, frameWidth: 640, frameHeight: 360, framesPerSecond: 30, jitterBufferDelay: 1, jitterBufferEmittedCount: 20 },
    a: { id: "a", type: "inbound-rtp", kind: "audio", packetsReceived: 7, packetsLost: 0, bytesReceived: 50, totalAudioEnergy: 0.5 },
    c: { id: "c", type: "codec", mimeType: "video/H264" },
    t: { id: "t", type: "transport", srtpCipher: "AEAD_AES_128_GCM", dtlsState: "connected", selectedCandidatePairId: "p", packetsReceived: 3 },
    p: { id: "p", type: "candidate-pair", responsesReceived: 4, currentRoundTripTime: 0.0123, localCandidateId: "l" },
    l: { id: "l", type: "local-candidate", protocol: "udp", candidateType: "host" },
  }));
  const sum = summarize(report);
  assert.deepEqual(
    [sum.packetsReceived, sum.packetsLost, sum.bytesReceived, sum.framesDecoded, sum.codec, sum.jitterBufferMs, sum.audioEnergy, sum.srtpCipher, sum.roundTripMs, sum.heard, sum.path, sum.videoPackets],
    [17, 1, 150, 5, "H264", 50, 0.5, "AEAD_AES_128_GCM", 12, 7, "UDP host", 10],
  );
  assert.equal(summarize(new Map()).framesDecoded, 0);
});

/** A publisher's keeper whose server said goodbye at 1,000 ms, without a network. */
function toldGoodbye() {
  globalThis.removeEventListener ??= () => {};
  const keeper = new Keeper({ kind: "whip", room: "demo", token: "t", onChange: () => {} });
  const link = { pc: { connectionState: "connected" }, dtlsState: "closed", connectedAt: 1, openedAt: 1, close: () => {} };
  const renewed = [];
  Object.assign(keeper, { running: true, link, epoch: 7, epochAt: 500, renew: (code) => renewed.push(code) });
  keeper.judgePublisher(link, 1000);
  return { keeper, link, renewed };
}

test("a publisher that was taken over does not fight, however slow the newcomer is to be live", () => {
  for (const live of [false, true]) {
    const { keeper, link, renewed } = toldGoodbye();
    Object.assign(keeper, { server: { live, epoch: 7 }, serverAt: 1900 });
    keeper.judgePublisher(link, 2000);
    assert.deepEqual([keeper.state, renewed], ["idle", []], "too early to tell");
    keeper.serverAt = 2300;
    keeper.judgePublisher(link, 2400);
    assert.deepEqual([keeper.state, renewed], ["taken", []]);
  }
});

test("a publisher comes back by itself after a goodbye with another epoch, or with no word at all", () => {
  const restarted = toldGoodbye();
  restarted.keeper.onServer({ live: false, epoch: 0 });
  assert.deepEqual(restarted.renewed, ["epoch"]);
  const alone = toldGoodbye();
  alone.keeper.judgePublisher(alone.link, 4100);
  assert.deepEqual([alone.renewed, alone.keeper.state], [["goodbye"], "idle"]);
});

test("numbers read well", () => {
  assert.deepEqual([formatBitrate(2_440_000), formatBitrate(812_400), formatBitrate(12_000_000), formatBitrate(undefined)], ["2.4 Mbit/s", "812 kbit/s", "12 Mbit/s", "–"]);
  assert.deepEqual([formatRatio(0), formatRatio(0.0004), formatRatio(0.031), formatRatio(0.5)], ["0 %", "0.04 %", "3.1 %", "50 %"]);
  assert.deepEqual([formatDuration(61_000), formatDuration(3_723_000)], ["01:01", "1:02:03"]);
});

test("the beep of the pattern falls on the full second, also when the audio clock has only begun", () => {
  assert.deepEqual(nextBeep(1_000_250, 8), { at: 8.75, clear: 8.74 });
  // Six milliseconds before the second, at zero: ten earlier is a time no browser takes.
  assert.deepEqual(nextBeep(999_994, 0), { at: 0.006, clear: 0 });
});
