// A chart of lines or bars over one axis. Pointer, finger and arrow keys go from stop to stop; a table tells the same.
function figure(id, spec) {
  const section = document.getElementById(id);
  section.append(el("h2", {}, spec.title));
  if (spec.none) return section.append(el("p", { class: "none" }, ...coded(spec.none)));
  section.append(el("p", { class: "caption" }, spec.caption));
  const keys = el("ul", { class: "keys" });
  // Lines with dots differ by the dots' shape, others by their dashes.
  spec.series.filter((series) => series.kind === "line").forEach((series, n) => {
    series.shape = SHAPES[n % SHAPES.length];
    series.dashes = series.dash ? "6 5" : series.dots === false ? DASHES[n % DASHES.length] : "";
  });
  for (const series of spec.series) keys.append(el("li", {}, seriesSwatch(series), series.name));
  const said = el("div", { class: "said", "aria-live": "polite" });
  const tip = el("div", { class: "tip", hidden: "" });
  const svg = draw("svg", { role: "img", tabindex: "0", "aria-label": `${spec.title}. ${spec.caption} Arrow keys read the values.` });
  const plot = el("div", { class: "plot" }, svg, tip, said);
  section.append(keys, plot, table(spec), ...(spec.command ? [commandNode(spec.command)] : []));
  let view = null, at = -1;
  onWidth(plot, (width) => { view = drawChart(svg, spec, width); show(-1); });

  function show(stop, aloud) {
    at = stop;
    view.cursor.replaceChildren();
    tip.hidden = stop < 0;
    if (stop < 0) return;
    const { x, head, values } = spec.stops[stop], px = view.x(x);
    view.cursor.append(draw("line", { x1: px, x2: px, y1: view.top, y2: view.bottom, stroke: "var(--soft)", "stroke-dasharray": "2 3" }));
    const rows = el("dl", {});
    spec.series.forEach((series, n) => rows.append(el("dt", {}, seriesSwatch(series), series.name), el("dd", {}, values[n])));
    tip.replaceChildren(el("strong", {}, head), rows);
    place(tip, plot, px, view.top);
    if (aloud) said.textContent = `${head}: ${spec.series.map((series, n) => `${series.name} ${values[n]}`).join(", ")}`;
  }
  const nearest = (event) => {
    const px = event.clientX - svg.getBoundingClientRect().left;
    return spec.stops.reduce((best, stop, n) => (Math.abs(view.x(stop.x) - px) < Math.abs(view.x(spec.stops[best].x) - px) ? n : best), 0);
  };
  svg.addEventListener("pointermove", (event) => show(nearest(event)));
  svg.addEventListener("pointerdown", (event) => show(nearest(event)));
  svg.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && show(-1));
  svg.addEventListener("blur", () => show(-1));
  svg.addEventListener("keydown", (event) => {
    const last = spec.stops.length - 1;
    const to = { ArrowRight: Math.min(at + 1, last), ArrowLeft: at < 0 ? last : Math.max(at - 1, 0), Home: 0, End: last, Escape: -1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    show(to, true);
  });
}

function drawChart(svg, spec, width) {
  const { height } = spec, top = spec.marks || spec.series.some((series) => series.kind === "range") ? 22 : 10, bottom = height - (spec.x.name ? 40 : 26);
  const y = yScale(spec, top, bottom);
  const left = 12 + Math.max(...y.ticks.map((tick) => spec.y.format(tick).length)) * 6.6, right = width - 10;
  const x = xScale(spec.x, left, right);
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  for (const tick of y.ticks) {
    svg.append(draw("line", { x1: left, x2: right, y1: y.at(tick), y2: y.at(tick), stroke: "var(--grid)" }));
    svg.append(draw("text", { x: left - 8, y: y.at(tick) + 4, "text-anchor": "end" }, spec.y.format(tick)));
  }
  const ends = { before: -Infinity };
  for (const [tick, name] of x.ticks) {
    // A name that would run over the edge is moved in, and one that would touch the one before is left out.
    const half = name.length * 3.3, px = Math.min(Math.max(x.at(tick), left + half - 6), right - half + 8);
    if (px - half < ends.before + 6) continue;
    ends.before = px + half;
    svg.append(draw("text", { x: px, y: bottom + 18, "text-anchor": "middle" }, name));
  }
  if (spec.x.name) svg.append(draw("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle" }, spec.x.name));
  for (const { x: at, name } of spec.marks || []) {
    const end = x.at(at) > (left + right) / 2;
    svg.append(draw("line", { x1: x.at(at), x2: x.at(at), y1: 6, y2: bottom, stroke: "var(--ink)", "stroke-dasharray": "4 4", opacity: 0.55 }));
    svg.append(draw("text", { x: x.at(at) + (end ? -6 : 6), y: 14, "text-anchor": end ? "end" : "start" }, name));
  }
  const bars = spec.series.filter((series) => series.kind === "bar");
  if (bars.length) stack(svg, bars, x, y, bottom);
  for (const series of spec.series.filter((one) => one.kind === "range")) ranges(svg, series, x, y);
  for (const series of spec.series.filter((one) => one.kind === "line")) line(svg, series, x, y, bottom);
  svg.append(draw("line", { x1: left, x2: right, y1: bottom, y2: bottom, stroke: "var(--line)" }));
  const cursor = draw("g", { "pointer-events": "none" });
  svg.append(cursor);
  return { x: x.at, top, bottom, cursor };
}

// From the lowest to the highest, and of how many: a word at the upper end where there is room.
function ranges(svg, series, x, y) {
  const ends = { before: -Infinity };
  for (const [at, low, high, of] of series.points) {
    const px = x.at(at), half = of.length * 3.3;
    const path = `M${px - 4} ${y.at(high)}h8M${px} ${y.at(high)}V${y.at(low)}M${px - 4} ${y.at(low)}h8`;
    svg.append(draw("path", { d: path, fill: "none", stroke: `var(--${series.colour})`, "stroke-width": 1.5 }));
    if (px - half < ends.before + 6) continue;
    ends.before = px + half;
    svg.append(draw("text", { x: px, y: y.at(high) - 8, "text-anchor": "middle", class: "of" }, of));
  }
}

function stack(svg, bars, x, y, bottom) {
  bars[0].points.forEach(([at], n) => {
    const from = x.at(at), to = x.at(at + bars[0].width), gap = to - from > 5 ? 1 : 0;
    let base = bottom, sum = 0;
    for (const series of bars) {
      const value = series.points[n][1];
      if (!value) continue;
      sum += value;
      // One reject among a thousand photos is to be seen.
      const top = Math.min(y.at(sum), base - 2.5);
      svg.append(draw("rect", { x: from + gap, y: top, width: Math.max(to - from - 2 * gap, 1), height: base - top, fill: `var(--${series.colour})`, rx: to - from > 8 ? 2 : 0 }));
      base = top;
    }
  });
}

function line(svg, series, x, y, bottom) {
  const points = series.points.map(([at, value]) => [x.at(at), Math.min(y.at(value), bottom)]);
  const path = points.map(([px, py], n) => `${n ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
  const colour = `var(--${series.colour})`;
  if (!series.apart) svg.append(draw("path", { d: path, fill: "none", stroke: colour, "stroke-width": series.strong ? 3 : 2, "stroke-linejoin": "round", "stroke-linecap": "round", ...(series.dashes ? { "stroke-dasharray": series.dashes } : {}) }));
  if ((series.dots === false || series.dash) && points.length > 1) return;
  const r = points.length > 60 ? 1.8 : series.apart ? 4.5 : 3;
  for (const [px, py] of points) svg.append(dot(series, px, py, r));
}

function dot(series, x, y, r) {
  const node = shapeNode(series.shape, x, y, r);
  node.setAttribute("fill", `var(--${series.colour})`);
  node.setAttribute("class", "dot");
  return node;
}
function seriesSwatch(series) {
  if (series.kind === "bar") return swatch(series.colour, series.kind);
  const svg = draw("svg", { width: 24, height: 14, viewBox: "0 0 24 14", "aria-hidden": "true" });
  if (series.kind === "range") {
    svg.append(draw("path", { d: "M8 1h8M12 1V13M8 13h8", fill: "none", stroke: `var(--${series.colour})`, "stroke-width": 1.5 }));
    return svg;
  }
  if (!series.apart) svg.append(draw("line", { x1: 0, x2: 24, y1: 7, y2: 7, stroke: `var(--${series.colour})`, "stroke-width": 3, ...(series.dashes ? { "stroke-dasharray": series.dashes } : {}) }));
  if (series.dots !== false && !series.dash) svg.append(dot(series, 12, 7, 4.5));
  return svg;
}

function yScale(spec, top, bottom) {
  const values = spec.series.flatMap((series) => series.points.map(([, value]) => value));
  if (spec.y.waits) return waitScale(values, top, bottom);
  if (spec.y.log) {
    const low = Math.log10(spec.y.least) - 0.08, high = Math.max(Math.log10(Math.max(...values, spec.y.least * 2)) + 0.08, low + 0.7);
    return { at: logarithmic(low, high, top, bottom), ticks: logTicks(low, high) };
  }
  const stacked = spec.series[0].kind === "bar" ? spec.series[0].points.map((_, n) => spec.series.reduce((sum, series) => sum + series.points[n][1], 0)) : values;
  const ticks = spec.y.ticks || niceTicks(Math.max(...stacked, 0), spec.y.whole), high = ticks[ticks.length - 1];
  return { at: (value) => bottom - (value / high) * (bottom - top), ticks };
}

// From the step below the shortest to the step above the longest, so that one wait of days leaves those of seconds apart.
function waitScale(values, top, bottom) {
  const steps = [0.001, 0.01, 0.1, 1, 10, 60, 600, 3600, ...[1, 10, 100, 1000, 10000].map((days) => days * 86400)];
  const least = Math.max(Math.min(...values), steps[0]), most = Math.max(...values, steps[0]);
  const first = steps.findLastIndex((step) => step <= least), last = Math.max(steps.findIndex((step) => step >= most), first + 1);
  const low = Math.log10(steps[first]), high = Math.log10(steps[last]);
  return { at: logarithmic(low, high, top, bottom), ticks: steps.slice(first, last + 1) };
}
function logarithmic(low, high, top, bottom) {
  return (value) => bottom - ((Math.max(Math.log10(Math.max(value, 1e-12)), low) - low) / (high - low)) * (bottom - top);
}

function xScale(axis, left, right) {
  const low = axis.log ? Math.log10(axis.min) : axis.min, high = axis.log ? Math.log10(axis.max) : axis.max;
  const at = (value) => left + (((axis.log ? Math.log10(value) : value) - low) / (high - low || 1)) * (right - left);
  if (axis.log) {
    const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter((tick) => tick >= axis.min && tick * 1.25 < axis.max);
    return { at, ticks: [...ticks, axis.max].map((tick) => [tick, axis.format(tick)]) };
  }
  if (axis.ticks) return { at, ticks: axis.ticks.map((tick) => [tick, axis.format(tick)]) };
  if (axis.time) return { at, ticks: timeTicks(axis, Math.max(2, Math.floor((right - left) / 62))) };
  const step = Math.max(1, Math.ceil((high - low) / Math.max(2, Math.floor((right - left) / 48))));
  const ticks = Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, n) => low + n * step);
  return { at, ticks: ticks.map((tick) => [tick, axis.format(tick)]) };
}

function timeAxis(rows, bin_s) {
  if (!rows.length) return { time: true, min: 0, max: 1 };
  const first = rows[0].at, last = rows[rows.length - 1].at + bin_s * 1000;
  // A single piece of time stands in the middle, not across the chart.
  const spare = last - first <= bin_s * 4000 ? bin_s * 2000 : 0;
  return { time: true, min: first - spare, max: last + spare };
}

function timeTicks(axis, most) {
  const units = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 259200, 432000, 604800, 1209600, 2419200, 7257600, 31536000];
  const step = (units.find((unit) => (axis.max - axis.min) / 1000 / unit <= most) || 31536000) * 1000;
  const first = Math.ceil(axis.min / step) * step, count = Math.floor((axis.max - first) / step) + 1;
  return Array.from({ length: count }, (_, n) => first + n * step).map((at) => [at, at % DAY_MS === 0 ? dayName(at) : clock(at, step < 60000)]);
}

function logTicks(low, high) {
  const powers = Array.from({ length: Math.ceil(high) - Math.floor(low) + 1 }, (_, n) => Math.floor(low) + n);
  const ticks = (digits) => powers.flatMap((power) => digits.map((digit) => Number((digit * 10 ** power).toPrecision(1)))).filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
  const decades = ticks([1]);
  return decades.length >= 3 ? decades : ticks([1, 2, 5]);
}

// From 0 to the value or little more, in at most five steps of 1, 2 or 5 of a power of ten.
function niceTicks(value, whole) {
  const most = value || 0.2, rough = most / 5, power = 10 ** Math.floor(Math.log10(rough));
  const nice = [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= rough - 1e-12), step = whole ? Math.max(nice, 1) : nice;
  const count = Math.ceil(most / step - 1e-9);
  return Array.from({ length: count + 1 }, (_, n) => Number((n * step).toPrecision(6)));
}

function table(spec) {
  const head = el("tr", {}, ...[...spec.columns, ...spec.series.map((series) => series.name)].map((name) => el("th", { scope: "col" }, name)));
  const rows = spec.stops.map((stop) => el("tr", {}, ...[stop.head, ...stop.values].map((value) => el("td", {}, value))));
  const scroll = el("div", { class: "scroll", tabindex: "0" }, el("table", {}, head, ...rows));
  return el("details", {}, el("summary", {}, "As a table"), scroll);
}
