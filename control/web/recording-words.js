// What pages say of a recording, computed from what the API answers. No document, no requests: node tests it.

import { formatDuration } from "./common.js";

const STATES = { recording: "Recording", waiting: "Waiting for the publisher", finishing: "Finishing", finished: "Finished" };
const REASONS = {
  stopped: "It was stopped.", stream_ended: "Its stream was ended.", publisher_gone: "Its publisher did not come back.",
  node_restarted: "The node was restarted.", found: "It was found on the disk.", failed: "It could not be written any more.",
};
const GAPS = {
  publisher_away: "the publisher was away", loss: "packets were lost", behind: "the recorder was behind",
  disk_full: "the disk did not take it", restart: "the recorder was restarted",
};

export const stateWords = (recording) => STATES[recording.state] ?? recording.state;
export const reasonWords = (recording) => (recording.state === "finished" ? REASONS[recording.reason] ?? "" : "");
export const isGrowing = (recording) => recording.state !== "finished";

/** `3 s missing: the publisher was away`. */
export function gapWords(gap) {
  const length = gap.length_ms < 10_000 ? `${(gap.length_ms / 1000).toFixed(1)} s` : formatDuration(gap.length_ms);
  return `${length} missing: ${GAPS[gap.reason] ?? gap.reason}`;
}

/** Where a file begins within its recording. */
export function beginningOf(recording, file) {
  const first = recording.files.find((other) => other.started_at)?.started_at ?? recording.started_at;
  const ms = Date.parse(file.started_at ?? "") - Date.parse(first ?? "");
  return Number.isFinite(ms) ? Math.max(0, ms) : 0;
}

/** The gaps of a file on a strip of `length` seconds: `{at, left, width, words}`, `at` in seconds, the rest in percent. */
export function gapMarks(recording, file, length) {
  if (!(length > 0)) return [];
  const beginning = beginningOf(recording, file);
  return recording.gaps.filter((gap) => gap.file === file.name).map((gap) => {
    const at = Math.max(0, gap.at_ms - beginning) / 1000;
    const left = Math.min(100, (100 * at) / length);
    return { at, left, width: Math.min(100 - left, (100 * gap.length_ms) / 1000 / length), words: gapWords(gap) };
  });
}

/** Why nothing is played, in words. `code` is a MediaError's. */
export function playProblem(code, file) {
  const codecs = file?.codecs?.join(" and ") || "its codecs";
  if (code === 4 || code === 3) return `This browser cannot play ${codecs}. Download the file: other players can.`;
  if (code === 2) return "The file did not come through. Is the node still there?";
  return "The file cannot be played.";
}
