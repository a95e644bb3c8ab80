// Goal: what the player page says of a recording is what the API answered: gaps where they are, words for states and faults.
// Method: the modules as they are, in node; nothing here has a document.

import assert from "node:assert/strict";
import { test } from "node:test";
import { beginningOf, gapMarks, gapWords, isGrowing, playProblem, reasonWords, stateWords } from "../recording-words.js";

const file = (name, started_at) => ({ name, started_at, codecs: ["H264", "opus"] });
const recording = {
  state: "finished", reason: "publisher_gone", started_at: "2026-01-01T00:00:00.000Z",
  files: [file("0001.mp4", "2026-01-01T00:00:00.000Z"), file("0002.webm", "2026-01-01T00:01:00.000Z")],
  gaps: [
    { file: "0001.mp4", at_ms: 10_000, length_ms: 5_000, reason: "publisher_away" },
    { file: "0002.webm", at_ms: 75_000, length_ms: 90_000, reason: "loss" },
  ],
};

test("gaps are marked where they are in their own file", () => {
  const [first, second] = recording.files;
  assert.deepEqual(gapMarks(recording, first, 50), [{ at: 10, left: 20, width: 10, words: "5.0 s missing: the publisher was away" }]);
  assert.equal(beginningOf(recording, second), 60_000);
  const [mark] = gapMarks(recording, second, 60);
  // From 15 s on, and no further than the strip goes.
  assert.deepEqual([mark.at, mark.left, mark.width], [15, 25, 75]);
  assert.deepEqual(gapMarks(recording, first, Number.NaN), []);
  // A file that grows does not know its beginning yet.
  assert.equal(beginningOf(recording, file("0003.mp4", null)), 0);
  assert.equal(gapMarks({ ...recording, files: [file("0001.mp4", null)], started_at: null }, file("0001.mp4", null), 50)[0].at, 10);
});

test("states, reasons and faults have words, and what a newer node says is shown as it is", () => {
  assert.equal(stateWords(recording), "Finished");
  assert.equal(reasonWords(recording), "Its publisher did not come back.");
  assert.equal(reasonWords({ ...recording, state: "recording" }), "");
  assert.ok(!isGrowing(recording) && isGrowing({ state: "finishing" }));
  assert.equal(stateWords({ state: "uploading" }), "uploading");
  assert.equal(gapWords({ length_ms: 75_000, reason: "moon" }), "01:15 missing: moon");
  assert.match(playProblem(4, recording.files[0]), /cannot play H264 and opus\. Download/);
  assert.match(playProblem(2, undefined), /node still there/);
});
