"use strict";

// Ranges of axes, ticks, and numbers as text. Pure functions; a range is [low, high], a scale "linear" or "log".

// Values below it are drawn at the bottom of a logarithmic axis, as in the figures.
const FLOOR = 1e-12;

const SUPERSCRIPTS = { "-": "⁻", 0: "⁰", 1: "¹", 2: "²", 3: "³", 4: "⁴", 5: "⁵", 6: "⁶", 7: "⁷", 8: "⁸", 9: "⁹" };

/** A value's place on an axis in arbitrary units. */
function forward(scale, value) {
  return scale === "log" ? Math.log10(Math.max(value, FLOOR)) : value;
}

/** The value at a place: the inverse of `forward`. */
function backward(scale, place) {
  return scale === "log" ? 10 ** place : place;
}

/** The range, wider by a share of itself at both ends; a range without extent gets one. */
function widened(scale, range, share) {
  const [low, high] = range.map((end) => forward(scale, end));
  const margin = high > low ? share * (high - low) : scale === "log" ? 0.5 : Math.abs(low) || 0.5;
  return [backward(scale, low - margin), backward(scale, high + margin)];
}

/** The range, `factor` times as long, with the value `fixed` where it was, and never beyond `whole`. */
function zoomed(scale, range, factor, fixed, whole) {
  const [low, high, centre, first, last] = [...range, fixed, ...whole].map((value) => forward(scale, value));
  return within(scale, [centre + factor * (low - centre), centre + factor * (high - centre)], [first, last]);
}

/** The range, moved by a share of its length, and never beyond `whole`. */
function moved(scale, range, share, whole) {
  const [low, high, first, last] = [...range, ...whole].map((value) => forward(scale, value));
  const wanted = share * (high - low);
  const step = wanted > 0 ? Math.min(wanted, last - high) : Math.max(wanted, first - low);
  return [low + step, high + step].map((place) => backward(scale, place));
}

/** Places cut to those of the whole axis, as values; never closer than a millionth of it. */
function within(scale, [low, high], [first, last]) {
  const least = (last - first) * 1e-6;
  const middle = (low + high) / 2;
  const ends = high - low < least ? [middle - least / 2, middle + least / 2] : [low, high];
  return [Math.max(ends[0], first), Math.min(ends[1], last)].map((place) => backward(scale, place));
}

/** About `count` round values in the range. */
function ticks(scale, range, count) {
  return scale === "log" ? logarithmicTicks(range, count) : linearTicks(range, count);
}

function linearTicks([low, high], count) {
  const rough = (high - low) / Math.max(1, count);
  const decade = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((mantissa) => mantissa * decade).find((each) => each >= rough * 0.999);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + 1e-9 * step; place += 1) {
    found.push(Number((place * step).toPrecision(12)));
  }
  return found;
}

function logarithmicTicks([low, high], count) {
  const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const every = Math.max(1, Math.round((last - first + 1) / Math.max(2, count)));
  const decades = [];
  for (let decade = Math.ceil(first / every) * every; decade <= last; decade += every) decades.push(Number((10 ** decade).toPrecision(12)));
  if (decades.length > 2) return decades;
  const between = [];
  for (let decade = first - 1; decade <= last; decade += 1) {
    for (const mantissa of [1, 2, 5]) between.push(Number((mantissa * 10 ** decade).toPrecision(12)));
  }
  const found = between.filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9));
  if (decades.length > 1 && found.length > 2 * count) return decades;
  return found.length > 2 ? found : linearTicks([low, high], count).filter((value) => value > 0);
}

/** A tick's text: as many digits as tell it from its neighbours. */
function tickText(value, all) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size >= 1e5 || size < 1e-4) return scientific(value);
  const gaps = all.slice(1).map((each, place) => each - all[place]);
  const gap = Math.min(...gaps, size);
  const digits = Math.max(0, Math.min(8, Math.ceil(-Math.log10(gap) - 1e-9)));
  return Number(value.toFixed(digits)).toLocaleString("en", { maximumFractionDigits: 8 });
}

/** Four significant digits. */
function numberText(value) {
  if (value === null) return "none";
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (Number.isInteger(value) && size < 1e9) return value.toLocaleString("en");
  if (size >= 1e5 || size < 1e-4) return scientific(Number(value.toPrecision(4)));
  return String(Number(value.toPrecision(4)));
}

function scientific(value) {
  const [mantissa, exponent] = value.toExponential().split("e");
  const digits = Number(Number(mantissa).toPrecision(4));
  const power = [...String(Number(exponent))].map((digit) => SUPERSCRIPTS[digit]).join("");
  return digits === 1 ? `10${power}` : `${digits}·10${power}`;
}

/** The place in ascending `values` that is nearest to `value`. */
function nearest(values, value) {
  let [low, high] = [0, values.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (values[middle] <= value) low = middle;
    else high = middle;
  }
  return value - values[low] <= values[high] - value ? low : high;
}
