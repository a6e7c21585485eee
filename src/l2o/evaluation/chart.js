"use strict";

// One chart: curves that can be zoomed, hidden and read, over linear or logarithmic axes. Its data are a `charts.Chart`.

let charts = 0;

function html(name, attributes, parent, text = "") {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

class CurveChart {
  /**
   * @param {HTMLElement} place - where the chart is drawn.
   * @param {object} data - a `charts.Chart`.
   * @param {string[]} names - of all curves of the picture: the place of a name decides over its colour and mark.
   * @param {string} words - what the chart shows.
   */
  constructor(place, data, names, words) {
    charts += 1;
    this.data = data;
    this.key = `chart-${charts}`;
    this.scale = { x: data.xscale, y: data.yscale };
    this.view = { x: null, y: null }; // null: everything in x; in y what the visible curves need
    this.cursor = null; // the x that is read
    this.traces = data.traces.map((trace) => ({ ...trace, look: names.indexOf(trace.name), visible: trace.shown }));
    this.refused = { x: this.refusal("x"), y: this.refusal("y") };
    for (const axis of ["x", "y"]) if (this.refused[axis]) this.scale[axis] = "linear";
    this.build(place, words);
    new Gestures(this);
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Why an axis cannot be logarithmic; nothing if it can. */
  refusal(axis) {
    const values = this.traces.flatMap((trace) => trace[axis]).filter((value) => value !== null);
    const label = this.data[`${axis}label`];
    const what = `no logarithmic ${axis} axis`;
    if (values.some((value) => value < 0)) return `${what}, as some values of “${label}” are negative`;
    const positive = new Set(values.filter((value) => value > 0));
    return positive.size < 2 ? `${what}, as “${label}” has too few values above 0` : "";
  }

  build(place, words) {
    const bar = html("div", { class: "tools" }, place);
    const [zoom, scales] = ["Zoom", "Axes"].map((name) => html("div", { role: "group", "aria-label": name }, bar));
    const button = (parent, text, name, act) => {
      const made = html("button", { type: "button", "aria-label": name, title: name }, parent, text);
      made.addEventListener("click", act);
      return made;
    };
    button(zoom, "+", "zoom in", () => this.zoom(0.5));
    button(zoom, "−", "zoom out", () => this.zoom(2));
    button(zoom, "◂", "move left", () => this.move(-0.5));
    button(zoom, "▸", "move right", () => this.move(0.5));
    button(zoom, "reset", "reset: show everything", () => this.reset());
    this.switches = {};
    for (const axis of ["x", "y"]) {
      const made = button(scales, `log ${axis}`, `log ${axis}: logarithmic ${axis} axis`, () => this.toggle(axis));
      this.switches[axis] = made;
      if (!this.refused[axis]) continue;
      made.setAttribute("aria-disabled", "true");
      made.setAttribute("aria-describedby", `${this.key}-reason`);
    }
    const reasons = Object.values(this.refused).filter(Boolean);
    if (reasons.length) html("p", { class: "reason", id: `${this.key}-reason` }, place, `There is ${reasons.join("; ")}.`);
    const label = { "aria-label": `Chart: ${words}`, "aria-describedby": `${this.key}-hint` };
    this.plot = html("div", { class: "plot", tabindex: "0", role: "group", ...label }, place);
    this.canvas = svg("svg", { "aria-hidden": "true" }, this.plot);
    this.status = html("p", { class: "reading" }, place);
    this.spoken = html("p", { class: "unseen", "aria-live": "polite" }, place);
    this.legend = html("ul", { class: "legend", "aria-label": "Curves: press to hide or show" }, place);
    for (const trace of this.traces) this.entry(trace);
    html("p", { class: "note" }, place, `${this.data.notes.join("; ")}.`);
    const hint = "Drag over a part to see it larger; a double click shows everything. A chart that was clicked is zoomed " +
      "by the wheel too, on a touch screen by two fingers; arrow keys read values, + and − zoom, 0 resets.";
    html("p", { class: "note hint", id: `${this.key}-hint` }, place, hint);
  }

  /** A curve's line in the legend: a button that hides and shows it, and its value where the reader points. */
  entry(trace) {
    const item = html("li", {}, this.legend);
    const button = html("button", { type: "button", "aria-pressed": String(trace.visible) }, item);
    const swatch = svg("svg", { width: 34, height: 14, "aria-hidden": "true" }, button);
    drawStroke(trace, "M1,7L33,7", swatch);
    drawMark(trace, 17, 7, swatch);
    const words = html("span", { class: trace.bold ? "name bold" : "name" }, button, trace.name);
    if (trace.note) html("small", {}, words, ` ${trace.note}`);
    trace.value = html("span", { class: "value" }, item);
    button.addEventListener("click", () => {
      trace.visible = !trace.visible;
      button.setAttribute("aria-pressed", String(trace.visible));
      this.draw();
    });
  }

  /** The ends of everything on the axis of x. */
  everything() {
    const values = this.traces.flatMap((trace) => trace.x).filter((value) => this.scale.x !== "log" || value > 0);
    const ends = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
    return ends[1] > ends[0] ? ends : widened(this.scale.x, ends, 0.05);
  }

  /** What of y the visible curves need in a range of x, up to the chart's limit. */
  fitted([first, last]) {
    const found = this.view.x ? [] : Object.values(this.data.levels ?? {});
    const bands = this.scale.y === "log" ? (end) => end > 0 : () => true;
    for (const { x, y, low, high } of this.traces.filter((trace) => trace.visible)) {
      const inside = x.map((_, point) => point).filter((point) => x[point] >= first && x[point] <= last);
      found.push(...inside.flatMap((point) => [y[point], ...[low[point], high[point]].filter(bands)]));
    }
    const values = found.filter((value) => value !== null);
    if (!values.length) return [this.scale.y === "log" ? 0.1 : 0, 1];
    const floor = this.scale.y === "log" ? FLOOR : -Infinity;
    const [low, high] = [Math.min, Math.max].map((end) => Math.max(floor, values.reduce((a, b) => end(a, b))));
    const limit = this.data.limit ?? Infinity;
    return widened(this.scale.y, [low, low < limit ? Math.min(high, limit) : high], 0.05);
  }

  /** Shows a range of x, `factor` times as long, with one value, or the middle, where it was. */
  zoom(factor, fixed) {
    const { left, right } = this.frame;
    const centre = fixed ?? this.frame.valueAt("x", (left + right) / 2);
    this.show(zoomed(this.scale.x, this.frame.range.x, factor, centre, this.everything()));
  }

  /** Shows what lies beside, by a share of the range of x. */
  move(share) {
    this.show(moved(this.scale.x, this.frame.range.x, share, this.everything()));
  }

  /** Shows a range of x, and of y: null for what the visible curves need. */
  show(x, y = this.view.y) {
    const [first, last] = this.everything();
    this.view = { x: x[0] <= first && x[1] >= last ? null : x, y };
    this.draw();
  }

  reset() {
    this.view = { x: null, y: null };
    this.draw();
  }

  toggle(axis) {
    if (this.refused[axis]) return;
    this.scale[axis] = this.scale[axis] === "log" ? "linear" : "log";
    const outside = axis === "x" && this.view.x !== null && this.view.x[0] <= 0;
    if (axis === "y" || outside) this.view[axis] = null;
    this.draw();
  }

  draw() {
    const x = this.view.x ?? this.everything();
    const range = { x, y: this.view.y ?? this.fitted(x) };
    const frame = new Frame(Math.max(240, this.plot.clientWidth), { ...this.scale }, range);
    const { width, height, left, right, top, bottom } = frame;
    this.frame = frame;
    this.canvas.replaceChildren();
    this.canvas.setAttribute("width", width);
    this.canvas.setAttribute("height", height);
    const clip = svg("clipPath", { id: `${this.key}-clip` }, svg("defs", {}, this.canvas));
    svg("rect", { x: left, y: top - 1, width: right - left, height: bottom - top + 2 }, clip);
    const without = this.scale.x === "log" && this.traces.some((trace) => trace.x.includes(0));
    drawAxes(frame, without ? `${this.data.xlabel} (0 has no place here)` : this.data.xlabel, this.data.ylabel, this.canvas);
    const inside = svg("g", { "clip-path": `url(#${this.key}-clip)` }, this.canvas);
    for (const [name, value] of Object.entries(this.data.levels ?? {})) drawLevel(frame, name, value, inside);
    const visible = this.traces.filter((trace) => trace.visible).reverse().sort((a, b) => a.bold - b.bold);
    for (const trace of visible) drawBand(frame, trace, inside);
    for (const trace of visible) drawCurve(frame, trace, inside);
    this.pointer = svg("g", { class: "pointer" }, this.canvas);
    for (const axis of ["x", "y"]) this.switches[axis].setAttribute("aria-pressed", String(this.scale[axis] === "log"));
    this.read(this.cursor);
  }

  /** All x of visible curves that have a place on the axis, ascending. */
  grid() {
    const visible = this.traces.filter((trace) => trace.visible);
    const values = visible.flatMap((trace) => this.frame.points(trace).map((point) => trace.x[point]));
    return [...new Set(values)].sort((a, b) => a - b);
  }

  /** Shows the values at the point nearest to x; none for null. */
  read(x) {
    this.pointer.replaceChildren();
    for (const trace of this.traces) trace.value.textContent = "";
    const grid = x === null ? [] : this.grid();
    this.cursor = grid.length ? grid[nearest(grid, x)] : null;
    this.status.textContent = grid.length ? `at ${this.data.xlabel} ${numberText(this.cursor)}` : "";
    if (!grid.length) return;
    this.legend.classList.add("read"); // it keeps its height from now on
    const { top, bottom } = this.frame;
    const at = this.frame.place("x", this.cursor);
    if (this.frame.holds(at, top)) svg("line", { x1: at, x2: at, y1: top, y2: bottom }, this.pointer);
    const reaching = ({ visible, x: all }) => visible && all[0] <= this.cursor && this.cursor <= all.at(-1);
    for (const trace of this.traces.filter(reaching)) {
      const point = nearest(trace.x, this.cursor);
      const ends = [trace.low[point], trace.high[point]];
      const band = ends.includes(null) ? "" : ` [${ends.map(numberText).join(", ")}]`;
      trace.value.textContent = `${numberText(trace.y[point])}${band}`;
      if (trace.y[point] === null) continue;
      const [cx, cy] = [this.frame.place("x", trace.x[point]), this.frame.place("y", trace.y[point])];
      if (this.frame.holds(cx, cy)) svg("circle", { cx, cy, r: 4.5, fill: colour(trace) }, this.pointer);
    }
  }

  /** Reads the next point, or the one before, and says it; the first time that in the middle. */
  step(by) {
    const [first, last] = this.frame.range.x;
    const grid = this.grid().filter((x) => x >= first && x <= last);
    if (!grid.length) return;
    const point = this.cursor === null ? grid.length >> 1 : nearest(grid, this.cursor) + by;
    this.read(grid[Math.min(Math.max(point, 0), grid.length - 1)]);
    const values = this.traces.filter((trace) => trace.visible).map((trace) => `${trace.name} ${trace.value.textContent}`);
    this.spoken.textContent = `${this.status.textContent}: ${values.join("; ")}`;
  }
}
