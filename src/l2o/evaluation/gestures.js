"use strict";

// What mouse, fingers, wheel and keys do to a chart.

const TAP = 6; // pixels that a finger or a mouse may move without dragging
const DRAG = 3 * TAP; // along an axis: less, and that axis stays as it is

class Gestures {
  /** @param {CurveChart} chart - whose plot they are made on. */
  constructor(chart) {
    this.chart = chart;
    this.fingers = new Map(); // pointer to place, while it is down
    this.start = null; // of a drag
    this.pinch = null; // how far two fingers were apart, and what the chart showed then
    const plot = chart.plot;
    plot.addEventListener("pointerdown", (event) => this.press(event));
    plot.addEventListener("pointermove", (event) => this.drag(event));
    plot.addEventListener("pointerup", (event) => this.release(event));
    plot.addEventListener("pointercancel", (event) => this.forget(event));
    plot.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !this.start) chart.read(null);
    });
    plot.addEventListener("dblclick", () => chart.reset());
    plot.addEventListener("keydown", (event) => this.type(event));
    plot.addEventListener("wheel", (event) => this.turn(event), { passive: false });
    plot.addEventListener("touchmove", (event) => event.touches.length > 1 && event.preventDefault(), { passive: false });
  }

  place(event) {
    const { left, top } = this.chart.canvas.getBoundingClientRect();
    return this.chart.frame.inside({ x: event.clientX - left, y: event.clientY - top });
  }

  press(event) {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    this.fingers.set(event.pointerId, this.place(event));
    if (event.pointerType !== "touch") {
      this.start = this.place(event);
      this.chart.plot.setPointerCapture(event.pointerId);
    } else if (this.fingers.size === 2) {
      this.pinch = { apart: this.apart(), range: this.chart.frame.range.x };
    }
  }

  drag(event) {
    const { chart } = this;
    const here = this.place(event);
    if (this.fingers.has(event.pointerId)) this.fingers.set(event.pointerId, here);
    if (this.pinch && this.fingers.size === 2) {
      const [first, second] = [...this.fingers.values()];
      const fixed = chart.frame.valueAt("x", (first.x + second.x) / 2);
      chart.show(zoomed(chart.scale.x, this.pinch.range, this.pinch.apart / this.apart(), fixed, chart.everything()));
    } else if (this.start) {
      this.mark(here);
    } else {
      chart.read(chart.frame.valueAt("x", here.x));
    }
  }

  release(event) {
    const { chart, start } = this;
    const here = this.place(event);
    this.forget(event);
    if (!start || Math.hypot(here.x - start.x, here.y - start.y) < TAP) {
      chart.read(chart.frame.valueAt("x", here.x));
      return;
    }
    const ends = (axis) => [start[axis], here[axis]].map((at) => chart.frame.valueAt(axis, at)).sort((a, b) => a - b);
    const [wide, high] = this.dragged(start, here);
    chart.show(wide ? ends("x") : chart.frame.range.x, high ? ends("y") : chart.view.y);
  }

  forget(event) {
    this.fingers.delete(event.pointerId);
    this.start = null;
    this.pinch = null;
    this.chart.pointer.querySelector("rect")?.remove();
  }

  /** Along which axes somebody has dragged. */
  dragged(start, here) {
    return [Math.abs(here.x - start.x) >= DRAG, Math.abs(here.y - start.y) >= DRAG];
  }

  /** Marks the part that is being dragged over. */
  mark(here) {
    const { left, right, top, bottom } = this.chart.frame;
    const [wide, high] = this.dragged(this.start, here);
    const [x1, x2] = wide ? [this.start.x, here.x].sort((a, b) => a - b) : [left, right];
    const [y1, y2] = high ? [this.start.y, here.y].sort((a, b) => a - b) : [top, bottom];
    this.chart.pointer.replaceChildren();
    if (wide || high) svg("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1 }, this.chart.pointer);
  }

  apart() {
    const [first, second] = [...this.fingers.values()];
    return Math.max(20, Math.hypot(first.x - second.x, first.y - second.y));
  }

  /** The wheel zooms a chart that was clicked, or with Ctrl; one that only passes by goes on scrolling the page. */
  turn(event) {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== this.chart.plot) return;
    event.preventDefault();
    this.chart.zoom(Math.exp(0.002 * event.deltaY), this.chart.frame.valueAt("x", this.place(event).x));
  }

  type(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { chart } = this;
    const acts = {
      "+": () => chart.zoom(0.5, chart.cursor ?? undefined),
      "=": () => chart.zoom(0.5, chart.cursor ?? undefined),
      "-": () => chart.zoom(2, chart.cursor ?? undefined),
      0: () => chart.reset(),
      Escape: () => chart.reset(),
      ArrowLeft: () => (event.shiftKey ? chart.move(-0.25) : chart.step(-1)),
      ArrowRight: () => (event.shiftKey ? chart.move(0.25) : chart.step(1)),
    };
    if (!(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }
}
