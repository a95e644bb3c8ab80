// Goal: what the admin page computes from the API's answers is right: fullest resource first, attempts by reason, charts
// with gaps where nobody counted.
// Method: the modules as they are, in node; nothing here has a document.

import assert from "node:assert/strict";
import { test } from "node:test";
import { formatBytes, formatSpan, groupsOf, matches, resourcesOf } from "../admin-views.js";
import { ceiling, pieces, places } from "../chart.js";

const node = { used: { viewers: 30, publishers: 1, egress_bps: 80e6 }, egress_bps: 70e6 };

test("the fullest resource is named first, and what has no limit not at all", () => {
  const limits = { viewers_max: 100, publishers_max: 0, egress_mbps_max: 100 };
  const found = resourcesOf(node, limits, [{ busy_ratio: 0.1 }, { busy_ratio: 0.5 }]);
  assert.deepEqual(found.map(({ name, ratio }) => [name, ratio]), [["egress", 0.8], ["forwarding threads", 0.5], ["viewers", 0.3]]);
  assert.equal(found[2].words, "30 of 100");
  // More than there may be (a limit was lowered) is full, not fuller.
  assert.equal(resourcesOf(node, { viewers_max: 10 }, [])[0].ratio, 1);
  assert.deepEqual(resourcesOf(node, null, []), []);
});

test("attempts stand by reason, the latest first, with all that happened counted", () => {
  const attempt = (code, count, last_at) => ({ id: `${code}${last_at}`, code, count, last_at });
  const groups = groupsOf([attempt("room_full", 3, "2026-01-01T00:00:02Z"), attempt("never_connected", 1, "2026-01-01T00:00:09Z"), attempt("room_full", 2, "2026-01-01T00:00:05Z")]);
  assert.deepEqual(groups.map(({ code, count }) => [code, count]), [["never_connected", 1], ["room_full", 5]]);
  assert.equal(groups[1].attempts[0].last_at, "2026-01-01T00:00:05Z");
});

test("a search finds every word, anywhere, in any case", () => {
  const viewer = { id: "vw_1", room: "Lobby", sub: "anna", account: "acme" };
  for (const words of ["", "ANNA", "lobby acme", "vw_1"]) assert.ok(matches(viewer, words), words);
  assert.ok(!matches(viewer, "anna other"));
});

test("a chart ends now, begins where its time began, and has a gap where nobody counted", () => {
  assert.deepEqual([0, 3, 7, 10, 1_300].map((value) => ceiling(value)), [1, 5, 10, 10, 2_000]);
  assert.equal(ceiling(0, 1e6), 1e6);
  const points = [0, 10, 20, 90, 100].map((second) => ({ time: second * 1000, viewers: second }));
  const placed = places(points, ({ viewers }) => viewers, 100, 100_000, 100_000);
  assert.deepEqual([placed[0].x, placed.at(-1).x, placed.at(-1).y], [0, 360, 0]);
  assert.deepEqual(pieces(placed, 25_000).map((piece) => piece.length), [3, 2]);
  assert.equal(places(points, () => 0, 1, 150_000, 100_000).length, 2);
});

test("spans and sizes in words", () => {
  assert.deepEqual([9, 192, 3_720, 183_600, -5].map(formatSpan), ["9s", "3m 12s", "1h 2m", "2d 3h", "0s"]);
  assert.deepEqual([5 * 2 ** 20, 3 * 2 ** 30, undefined].map(formatBytes), ["5 MiB", "3.0 GiB", "–"]);
});
