"use strict";

// What of a chart is SVG: the frame that says where values lie, axes, bands, curves with their marks.

const SVG = "http://www.w3.org/2000/svg";
const MARKS = ["circle", "square", "up", "diamond", "down", "plus", "star", "bar"];
const DASHES = ["", "9 4", "2 3"]; // change where the colours come round, as in the figures
const FAILED = "5 4";
const [TOP, RIGHT, BOTTOM, MARGIN, LETTER] = [26, 14, 44, 12, 7.4];
const [ROW, COLUMN, GAP] = [42, 90, 110]; // pixels between ticks, and between the marks of a curve

function svg(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (parent) parent.append(made);
  return made;
}

/** The outline of a mark of a few pixels around (x, y). */
function markPath(kind, x, y, size = 4) {
  const points = (...pairs) => `M${pairs.map(([dx, dy]) => `${x + dx * size},${y + dy * size}`).join("L")}Z`;
  switch (kind) {
    case "square":
      return points([-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]);
    case "up":
      return points([0, -1.2], [1.1, 0.9], [-1.1, 0.9]);
    case "down":
      return points([0, 1.2], [1.1, -0.9], [-1.1, -0.9]);
    case "diamond":
      return points([0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]);
    case "plus":
      return points(
        [-0.4, -1.2], [0.4, -1.2], [0.4, -0.4], [1.2, -0.4], [1.2, 0.4], [0.4, 0.4],
        [0.4, 1.2], [-0.4, 1.2], [-0.4, 0.4], [-1.2, 0.4], [-1.2, -0.4], [-0.4, -0.4],
      );
    case "star":
      return points(...Array.from({ length: 10 }, (_, corner) => {
        const [angle, radius] = [(Math.PI * corner) / 5, corner % 2 ? 0.6 : 1.4];
        return [radius * Math.sin(angle), -radius * Math.cos(angle)];
      }));
    case "bar":
      return points([-0.5, -1.4], [0.5, -1.4], [0.5, 1.4], [-0.5, 1.4]);
    default:
      return `M${x - size},${y}a${size},${size} 0 1,0 ${2 * size},0a${size},${size} 0 1,0 ${-2 * size},0Z`;
  }
}

function colour(trace) {
  return `var(--curve-${trace.look % MARKS.length})`;
}

function dashes(trace) {
  return DASHES[Math.floor(trace.look / MARKS.length) % DASHES.length];
}

function drawStroke(trace, d, parent, pattern = dashes(trace), share = 1) {
  const width = (trace.bold ? 3 : 1.7) * share;
  svg("path", { d, stroke: colour(trace), "stroke-width": width, "stroke-dasharray": pattern, class: "line" }, parent);
}

function drawMark(trace, x, y, parent) {
  const hollow = Math.floor(trace.look / MARKS.length) % 2 === 1;
  const fill = hollow ? "var(--card)" : colour(trace);
  const d = markPath(MARKS[trace.look % MARKS.length], x, y);
  svg("path", { d, stroke: colour(trace), fill, class: "shape" }, parent);
}

/** Where values lie in a picture: its size, its box, and what its axes show. */
class Frame {
  /**
   * @param {number} width - of the picture, in pixels.
   * @param {object} scale - x and y: "linear" or "log".
   * @param {object} range - x and y: [low, high].
   */
  constructor(width, scale, range) {
    Object.assign(this, { width, height: Math.round(Math.min(440, Math.max(260, 0.56 * width))), scale, range });
    this.rows = ticks(scale.y, range.y, (this.height - TOP - BOTTOM) / ROW);
    this.texts = this.rows.map((value) => tickText(value, this.rows));
    this.left = MARGIN + LETTER * Math.max(3, ...this.texts.map((text) => text.length));
    this.right = width - RIGHT;
    this.top = TOP;
    this.bottom = this.height - BOTTOM;
    this.columns = ticks(scale.x, range.x, (this.right - this.left) / COLUMN);
  }

  /** Where a value lies, in pixels; cut far outside the box, where pixels would lose their digits. */
  place(axis, value) {
    const [low, high] = this.range[axis].map((end) => forward(this.scale[axis], end));
    const share = (forward(this.scale[axis], value) - low) / (high - low);
    const { left, right, top, bottom } = this;
    const pixels = axis === "x" ? left + share * (right - left) : bottom - share * (bottom - top);
    return Math.min(Math.max(pixels, -1e5), 1e5);
  }

  /** The value at a place: the inverse of `place`. */
  valueAt(axis, pixels) {
    const { left, right, top, bottom } = this;
    const share = axis === "x" ? (pixels - left) / (right - left) : (bottom - pixels) / (bottom - top);
    const [low, high] = this.range[axis].map((end) => forward(this.scale[axis], end));
    return backward(this.scale[axis], low + share * (high - low));
  }

  /** A place that is inside the box, or as near to it as can be. */
  inside({ x, y }) {
    return { x: Math.min(Math.max(x, this.left), this.right), y: Math.min(Math.max(y, this.top), this.bottom) };
  }

  holds(x, y) {
    return x >= this.left - 1 && x <= this.right + 1 && y >= this.top - 1 && y <= this.bottom + 1;
  }

  /** The points of a curve that have a place on the axis of x and values in all of `columns`. */
  points(trace, ...columns) {
    const known = trace.x.map((_, point) => point).filter((point) => columns.every((values) => values[point] !== null));
    return known.filter((point) => this.scale.x !== "log" || trace.x[point] > 0);
  }

  pairs(trace, points, values) {
    const at = (axis, value) => this.place(axis, value).toFixed(1);
    return points.map((point) => `${at("x", trace.x[point])},${at("y", values[point])}`);
  }
}

/** Frame, ticks, grid and the names of the axes. */
function drawAxes(frame, xlabel, ylabel, canvas) {
  const { left, right, top, bottom, height } = frame;
  const group = svg("g", { class: "axes" }, canvas);
  const text = (words, attributes) => { svg("text", attributes, group).textContent = words; };
  frame.rows.forEach((value, row) => {
    const y = frame.place("y", value);
    svg("line", { x1: left, x2: right, y1: y, y2: y, class: "grid" }, group);
    text(frame.texts[row], { x: left - 7, y: y + 4, "text-anchor": "end", class: "tick y" });
  });
  for (const value of frame.columns) {
    const x = frame.place("x", value);
    const words = tickText(value, frame.columns);
    const anchor = x + (LETTER * words.length) / 2 > frame.width ? "end" : "middle";
    svg("line", { x1: x, x2: x, y1: top, y2: bottom, class: "grid" }, group);
    text(words, { x: anchor === "end" ? frame.width - 1 : x, y: bottom + 18, "text-anchor": anchor, class: "tick x" });
  }
  svg("path", { d: `M${left},${top}V${bottom}H${right}`, class: "frame" }, group);
  text(ylabel, { x: 2, y: 14, class: "label" });
  text(xlabel, { x: (left + right) / 2, y: height - 6, "text-anchor": "middle", class: "label" });
}

/** A dotted line at a height, and what it means. */
function drawLevel(frame, name, value, parent) {
  const y = frame.place("y", value);
  svg("line", { x1: frame.left, x2: frame.right, y1: y, y2: y, class: "level" }, parent);
  svg("text", { x: frame.right - 4, y: y - 4, "text-anchor": "end", class: "tick" }, parent).textContent = name;
}

function drawBand(frame, trace, parent) {
  const points = frame.points(trace, trace.low, trace.high);
  if (points.length < 2) return;
  const outline = [...frame.pairs(trace, points, trace.high), ...frame.pairs(trace, points, trace.low).reverse()];
  svg("path", {
    d: `M${outline.join("L")}Z`, fill: colour(trace), "fill-opacity": trace.bold ? 0.24 : 0.14, class: "band",
  }, parent);
}

/** The curve: as long as all runs are there, then thin and dashed; its marks; a cross for each failure. */
function drawCurve(frame, trace, parent) {
  const own = svg("g", { class: "curve", "data-name": trace.name }, parent);
  const points = frame.points(trace, trace.y);
  const parts = [points.filter((point) => point < trace.whole), points.filter((point) => point >= trace.whole - 1)];
  if (parts[0].length) drawStroke(trace, `M${frame.pairs(trace, parts[0], trace.y).join("L")}`, own);
  if (parts[1].length > 1) drawStroke(trace, `M${frame.pairs(trace, parts[1], trace.y).join("L")}`, own, FAILED, 0.6);
  // At even distances on the page, those of different curves at different places.
  let next = frame.left + 20 + (GAP * ((trace.look * 3) % MARKS.length)) / MARKS.length;
  for (const point of points) {
    const x = frame.place("x", trace.x[point]);
    if (x < next || x > frame.right) continue;
    drawMark(trace, x, frame.place("y", trace.y[point]), own);
    next += GAP * (1 + Math.floor((x - next) / GAP));
  }
  for (const point of trace.crosses.filter((each) => points.includes(each))) {
    // What explodes fails far above the box: its cross stands at the edge.
    const y = Math.min(Math.max(frame.place("y", trace.y[point]), frame.top + 6), frame.bottom - 6);
    const d = `M${frame.place("x", trace.x[point]) - 5},${y - 5}l10,10m0,-10l-10,10`;
    svg("path", { d, stroke: colour(trace), class: "cross" }, own);
  }
}
