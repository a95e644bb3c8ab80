// A line over the last hour at most, drawn as SVG from numbers. Knows no server.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 360;
const HEIGHT = 120;

function shape(name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

/** The next round number: 1, 2 or 5 times a power of ten. A chart of nothing goes up to `least`. */
export function ceiling(value, least = 1) {
  const wanted = Math.max(value, least);
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].find((times) => times * power >= wanted * 0.999999);
  return (step ?? 10) * power;
}

/** Points to places: `{x, y}` for each, the newest at the right edge, `hour` milliseconds wide. */
export function places(points, valueOf, top, now, hour = 3_600_000) {
  return points
    .filter((point) => now - point.time <= hour)
    .map((point) => ({
      x: WIDTH * (1 - (now - point.time) / hour),
      y: HEIGHT * (1 - Math.min(valueOf(point) / top, 1)),
      point,
    }));
}

/** Where a line has a gap: control was not there, and nobody counted. */
export function pieces(placed, gapMs) {
  const found = [];
  for (const place of placed) {
    const last = found.at(-1);
    if (last && place.point.time - last.at(-1).point.time <= gapMs) last.push(place);
    else found.push([place]);
  }
  return found;
}

const spans = [[600_000, "10 minutes ago"], [1_800_000, "half an hour ago"], [3_600_000, "an hour ago"]];

export class Chart {
  /** `valueOf(point)` is drawn, `words(value)` is how it is said. `top`: a fixed upper edge. */
  constructor(figure, { valueOf, words, top = null, least = 1 }) {
    Object.assign(this, { figure, valueOf, words, top, least, placed: [], hovered: null });
    this.reading = figure.querySelector("output");
    this.svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const y of [0, HEIGHT / 2, HEIGHT]) this.svg.append(shape("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }));
    this.area = shape("path", { class: "area" });
    this.line = shape("path", { class: "stroke" });
    this.cursor = shape("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.svg.append(this.area, this.line, this.cursor);
    this.axis = document.createElement("div");
    this.axis.className = "axis";
    this.axis.append(...["an hour ago", "", "now"].map((text) => Object.assign(document.createElement("span"), { textContent: text })));
    figure.append(this.svg, this.axis);
    this.svg.addEventListener("pointermove", (event) => this.hover(event));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
  }

  draw(points, intervalMs, now) {
    // A young node has little to show: then the picture is of minutes.
    const [span, words] = spans.find(([span]) => points.length === 0 || now - points[0].time <= span) ?? spans.at(-1);
    const highest = points.reduce((most, point) => Math.max(most, this.valueOf(point)), 0);
    const top = this.top ?? ceiling(highest, this.least);
    this.placed = places(points, this.valueOf, top, now, span);
    const lines = pieces(this.placed, intervalMs * 2.5).map((piece) => {
      const at = ({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`;
      // One point alone is a short dash.
      const shown = piece.length === 1 ? [{ ...piece[0], x: piece[0].x - 1 }, piece[0]] : piece;
      return { line: `M${shown.map(at).join("L")}`, first: shown[0].x, last: shown.at(-1).x };
    });
    this.line.setAttribute("d", lines.map(({ line }) => line).join(""));
    this.area.setAttribute("d", lines.map(({ line, first, last }) => `${line}L${last.toFixed(1)},${HEIGHT}L${first.toFixed(1)},${HEIGHT}Z`).join(""));
    this.axis.children[0].textContent = words;
    this.axis.children[1].textContent = `top ${this.words(top)}`;
    this.show();
  }

  hover(event) {
    const box = this.svg.getBoundingClientRect();
    const x = event ? ((event.clientX - box.left) / box.width) * WIDTH : null;
    const nearest = x === null ? null : this.placed.reduce((best, place) => (best && Math.abs(best.x - x) < Math.abs(place.x - x) ? best : place), null);
    this.hovered = nearest;
    this.show();
  }

  show() {
    const place = this.hovered ?? this.placed.at(-1);
    this.cursor.setAttribute("visibility", this.hovered ? "visible" : "hidden");
    if (this.hovered) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.hovered.x);
    const when = this.hovered ? `${new Date(place.point.time).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}  ` : "";
    this.reading.textContent = place ? `${when}${this.words(this.valueOf(place.point))}` : "no points yet";
  }
}
