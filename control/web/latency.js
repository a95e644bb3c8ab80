// End-to-end latency, read from the picture. The synthetic clip and the publish page's test pattern carry the frame
// number k as a row of cells; frame k is sent when Unix time modulo 10 s is k/30 s.
//
//   | 0     | 1     | 2 .. 10                          | 11                                         |
//   | white | black | k (0..299), 9 bits, highest first | parity: white when the number of 1 is odd  |
//
// Each cell is W/20 x W/20 pixels, the row begins at the top-left corner.

export const CELLS = 12;
export const FRAMES = 300;
export const FRAMES_PER_SECOND = 30;
export const LOOP_MS = 10_000;

/** Pixels per cell in the small canvas that the row is drawn into. */
const SAMPLE = 8;
const BLACK_MAX = 80;
const WHITE_MIN = 160;

/** The cells of frame k, true for white. */
export function cellsOf(k) {
  const bits = Array.from({ length: 9 }, (_, place) => ((k >> (8 - place)) & 1) === 1);
  return [true, false, ...bits, bits.filter(Boolean).length % 2 === 1];
}

/** The frame number in an RGBA picture of CELLS * sample x sample pixels, or null when there is no valid row. */
export function readCells(rgba, sample = SAMPLE) {
  const width = CELLS * sample;
  if (rgba.length < width * sample * 4) return null;
  const from = Math.floor(sample / 4);
  const to = sample - from;
  const white = [];
  for (let cell = 0; cell < CELLS; cell += 1) {
    let sum = 0;
    let count = 0;
    // The middle of the cell: its edges belong to the codec.
    for (let y = from; y < to; y += 1) {
      for (let x = cell * sample + from; x < cell * sample + to; x += 1) {
        const at = (y * width + x) * 4;
        sum += 0.299 * rgba[at] + 0.587 * rgba[at + 1] + 0.114 * rgba[at + 2];
        count += 1;
      }
    }
    const mean = sum / count;
    if (mean > BLACK_MAX && mean < WHITE_MIN) return null;
    white.push(mean >= WHITE_MIN);
  }
  if (!white[0] || white[1]) return null;
  const bits = white.slice(2, 11);
  if ((bits.filter(Boolean).length % 2 === 1) !== white[11]) return null;
  const k = bits.reduce((value, bit) => value * 2 + (bit ? 1 : 0), 0);
  return k < FRAMES ? k : null;
}

/** The frame that is due at a Unix time in milliseconds. */
export function frameAt(unixMs) {
  return Math.floor((unixMs % LOOP_MS) * FRAMES_PER_SECOND / 1000);
}

/** When an audio clock at `contextTime` (seconds) comes to the next full second of `unixMs`, and from where on plans are
 *  cleared for it: just before, but never before zero, which browsers refuse (a clock that has only begun is at zero). */
export function nextBeep(unixMs, contextTime) {
  const at = contextTime + (1000 - (unixMs % 1000)) / 1000;
  return { at, clear: Math.max(0, at - 0.01) };
}

/** How long ago frame k was sent, modulo the 10 s of the loop. */
export function latencyOf(k, unixMs) {
  const age = (unixMs - (k * 1000) / FRAMES_PER_SECOND) % LOOP_MS;
  return age < 0 ? age + LOOP_MS : age;
}

/** The middle of some ages on a circle of 10 s: 9990 and 10 lie 20 ms apart. */
export function medianAge(ages) {
  if (ages.length === 0) return null;
  const anchor = ages[0];
  const turned = ages.map((age) => {
    const offset = (age - anchor + LOOP_MS) % LOOP_MS;
    return offset > LOOP_MS / 2 ? offset - LOOP_MS : offset;
  });
  turned.sort((a, b) => a - b);
  return (anchor + turned[Math.floor(turned.length / 2)] + LOOP_MS) % LOOP_MS;
}

const READ_EVERY_MS = 150;
const STALE_MS = 2000;
const READINGS = 9;

/** Reads a playing video about seven times a second; `latencyMs` is null while there is nothing to read. */
export class LatencyReader {
  constructor(video) {
    this.video = video;
    this.readings = [];
    this.readAt = -Infinity;
    const canvas = document.createElement("canvas");
    canvas.width = CELLS * SAMPLE;
    canvas.height = SAMPLE;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    if (!("requestVideoFrameCallback" in video)) return;
    const each = (now, frame) => {
      if (now - this.readAt >= READ_EVERY_MS) this.read(now, frame);
      video.requestVideoFrameCallback(each);
    };
    video.requestVideoFrameCallback(each);
  }

  read(now, frame) {
    this.readAt = now;
    const side = this.video.videoWidth / 20;
    if (!side) return;
    this.context.drawImage(this.video, 0, 0, CELLS * side, side, 0, 0, CELLS * SAMPLE, SAMPLE);
    const k = readCells(this.context.getImageData(0, 0, CELLS * SAMPLE, SAMPLE).data);
    if (k === null) return;
    // The moment at which this frame reaches the screen, as Unix time.
    const shownAt = Math.max(now, frame.expectedDisplayTime ?? now) - performance.now() + Date.now();
    this.readings.push({ at: now, age: latencyOf(k, shownAt) });
    if (this.readings.length > READINGS) this.readings.shift();
  }

  get latencyMs() {
    const since = performance.now() - STALE_MS;
    const median = medianAge(this.readings.filter(({ at }) => at >= since).map(({ age }) => age));
    return median === null ? null : Math.round(median);
  }
}
