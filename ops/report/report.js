"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = ["c0", "c1", "c2", "c3", "c4", "c5"];
  const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
  const DAY_MS = 86400000;
  // What rounding leaves of a direction without variance is not drawn.
  const LEAST_SHARE = 1e-6;
  const MOST_TILES = 240;

  headline();
  flow();
  latency();
  pace();
  reasons();
  spectra();
  turn();
  shift();
  map();

  function headline() {
    const { totals, pca_map: shown } = data;
    const since = data.since ? `, since ${data.since}` : "";
    document.getElementById("home").append(el("bdi", {}, data.home), `${since} · made ${moment(data.made_at)} UTC`);
    if (shown && shown.photos.some((photo) => photo.thumbnail)) document.getElementById("pictures").textContent = ", and small pictures of them";
    const landed = totals.photos + totals.rejects;
    const served = data.versions.find((version) => version.version === data.serving);
    const worked = data.pace.reduce((sum, bin) => sum + bin.photos / bin.per_s, 0);
    const photos = data.pace.reduce((sum, bin) => sum + bin.photos, 0);
    const known = data.pace.every((bin) => bin.limit_per_s);
    const least = data.pace.reduce((sum, bin) => sum + bin.photos / bin.limit_per_s, 0);
    const figures = [
      ["Photos", number(totals.photos), `${counted(totals.labels, "label")} · ${size(totals.photo_bytes)}`],
      ["Rejects", number(totals.rejects), landed ? `${percent(totals.rejects / landed)} of what landed` : "nothing landed yet"],
      ["Wait, median", totals.median_s === null ? "–" : duration(totals.median_s), totals.p95_s === null ? "no photo yet" : `95 % within ${duration(totals.p95_s)}`],
      ["Pace at work", photos ? `${rate(photos / worked)}/s` : "–", photos && known ? `${percent(least / worked, 0)} of the cores' limit, ${rate(photos / least)}/s` : photos ? "the limit is not known" : "no recent batch"],
      ["PCA served", served ? `version ${served.version}` : "none", served ? `${counted(served.components, "component")}, ${percent(served.explained)} of the variance` : "run fruits refit --reproject"],
      ["Span", totals.first_at === null ? "–" : duration((totals.last_at - totals.first_at) / 1000), totals.first_at === null ? "" : span(totals.first_at, totals.last_at)],
    ];
    const section = document.getElementById("headline");
    for (const [name, value, more] of figures) {
      section.append(el("div", { class: "figure" }, el("div", { class: "name" }, name), el("div", { class: "value" }, value), el("div", { class: "more" }, more)));
    }
  }

  function flow() {
    const bins = filled();
    figure("flow", {
      title: "Photos and rejects over time",
      caption: `By the time of ingestion, in pieces of ${duration(data.bin_s)}.`,
      none: !bins.length && "Nothing was ingested yet. Drop photos into the landing and run fruits stream.",
      height: 240, x: timeAxis(bins, data.bin_s), y: { whole: true, format: number },
      series: [
        { name: "photos", colour: "c2", kind: "bar", width: data.bin_s * 1000, points: bins.map((bin) => [bin.at, bin.photos]) },
        { name: "rejects", colour: "c4", kind: "bar", width: data.bin_s * 1000, points: bins.map((bin) => [bin.at, bin.rejects]) },
      ],
      stops: bins.map((bin) => ({ x: bin.at + data.bin_s * 500, head: moment(bin.at), values: [number(bin.photos), number(bin.rejects)] })),
      columns: ["from"],
    });
  }

  function latency() {
    const bins = data.flow.filter((bin) => bin.p50_s !== null);
    const names = [["median", "p50_s", "c0"], ["95 %", "p95_s", "c1"], ["99 %", "p99_s", "c4"]];
    const least = Math.min(...bins.map((bin) => bin.p50_s));
    figure("latency", {
      title: "From arrival to ingestion",
      caption: "How long photos had waited. A backlog that was there before the stream began waits from its arrival on.",
      none: !bins.length && "No photo was ingested yet.",
      height: 230, x: timeAxis(bins, data.bin_s), y: { log: true, least: Math.max(least, 0.01), format: duration },
      series: names.map(([name, field, colour]) => ({ name, colour, kind: "line", points: bins.map((bin) => [bin.at + data.bin_s * 500, bin[field]]) })),
      stops: bins.map((bin) => ({ x: bin.at + data.bin_s * 500, head: moment(bin.at), values: names.map(([, field]) => duration(bin[field])) })),
      columns: ["from"],
    });
  }

  function pace() {
    const bins = data.pace, half = data.pace_bin_s * 500;
    const limits = bins.some((bin) => bin.limit_per_s);
    figure("pace", {
      title: "Photos a second, and the limit",
      caption: "While batches were at work, the newest ones. The limit is what the cores would do if they only decoded and inferred these photos. A trickle waits for photos, not for cores.",
      none: !bins.length && "No batch of the last day has left a result.",
      height: 230, x: timeAxis(bins, data.pace_bin_s), y: { format: rate },
      series: [
        { name: "photos a second", colour: "c2", kind: "line", points: bins.map((bin) => [bin.at + half, bin.per_s]) },
        ...(limits ? [{ name: "limit of the cores", colour: "c4", kind: "line", dash: true, points: bins.filter((bin) => bin.limit_per_s).map((bin) => [bin.at + half, bin.limit_per_s]) }] : []),
      ],
      stops: bins.map((bin) => ({ x: bin.at + half, head: `${moment(bin.at)} · ${counted(Math.round(bin.photos), "photo")} in ${counted(bin.batches, "batch", "batches")}`, values: [rate(bin.per_s), ...(limits ? [bin.limit_per_s ? rate(bin.limit_per_s) : "–"] : [])] })),
      columns: ["from"],
    });
  }

  function reasons() {
    const section = document.getElementById("reasons");
    section.append(el("h2", {}, "Rejects by reason"));
    if (!data.reasons.length) return section.append(el("p", { class: "none" }, "Nothing was rejected."));
    const most = Math.max(...data.reasons.map(([, files]) => files));
    const bars = el("div", { class: "bars" });
    for (const [reason, files] of data.reasons) {
      const bar = el("div", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${(100 * files) / most}%`;
      bars.append(el("bdi", {}, reason), bar, el("span", {}, number(files)));
    }
    section.append(el("p", { class: "caption" }, "What became of files that are no photo. fruits rejects tells what to do about each."), bars);
  }

  function spectra() {
    const none = !data.versions.length && "There is no PCA yet. Run fruits refit --reproject.";
    const newest = data.versions[data.versions.length - 1];
    const shown = data.versions.slice(-6);
    const points = newest ? newest.spectrum.map(([component]) => component) : [];
    const dimensions = points.length ? points[points.length - 1] : 1;
    const common = (field, format) => ({
      none, height: 250, x: { log: true, min: 1, max: dimensions, format: number, name: "component" },
      series: shown.map((version, place) => ({ name: versionName(version), colour: COLOURS[place % 6], kind: "line", dots: false, strong: version.version === data.serving, points: version.spectrum.filter((row) => row[field] >= LEAST_SHARE).map((row) => [row[0], row[field]]) })),
      stops: points.map((component, place) => ({ x: component, head: `component ${number(component)}`, values: shown.map((version) => format(version.spectrum[place] ? version.spectrum[place][field] : 0)) })),
      marks: newest && [{ x: newest.components, name: `${newest.components} kept` }],
      columns: ["component"],
    });
    figure("scree", {
      title: "Scree plot", caption: "The share of the variance that each direction explains.",
      ...common(1, percent), y: { log: true, least: Math.min(1, ...shown.flatMap((version) => version.spectrum.map((row) => row[1]).filter((share) => share >= LEAST_SHARE))), format: percent },
    });
    figure("cumulative", {
      title: "Explained variance",
      caption: newest ? `Of all directions up to each. Version ${newest.version}: 80 % with ${newest.at_80}, 95 % with ${newest.at_95}.` : "",
      ...common(2, percent), y: { top: 1, format: (share) => percent(share, 0) },
    });
  }

  function turn() {
    const turned = data.versions.filter((version) => version.angles_deg.length).slice(-6);
    const most = Math.max(0, ...turned.map((version) => version.angles_deg.length));
    const angle = (degrees) => (degrees === undefined ? "–" : `${degrees < 10 ? degrees.toFixed(1) : Math.round(degrees)}°`);
    figure("turn", {
      title: "Drift of the PCA",
      caption: "Principal angles between what a version keeps and what its parent kept, from the least to the largest: 0° is the same space, 90° a direction that the parent had none of.",
      none: !turned.length && "There is one version at most. Each refit is compared with the one before.",
      height: 230, x: { min: 1, max: Math.max(most, 2), format: number, name: "angle" }, y: { top: 90, format: (degrees) => `${degrees}°` },
      series: turned.map((version, place) => ({ name: `version ${version.version} from ${version.parent}`, colour: COLOURS[place % 6], kind: "line", dots: most < 20, points: version.angles_deg.map((degrees, n) => [n + 1, degrees]) })),
      stops: Array.from({ length: most }, (_, n) => ({ x: n + 1, head: `angle ${n + 1}`, values: turned.map((version) => angle(version.angles_deg[n])) })),
      columns: ["angle"],
    });
  }

  function shift() {
    const days = data.shifts.map((row) => ({ ...row, at: Date.parse(row.day) }));
    const fixed = (value) => value.toFixed(2);
    figure("shift", {
      title: "Drift of the photos",
      caption: "How far a day's mean projection lies from the served version's mean, in standard deviations of one photo. The dashed line is what chance gives.",
      none: !days.length && "No photo is projected with a served version yet.",
      height: 230, x: timeAxis(days, 86400), y: { format: (value) => String(Number(value.toPrecision(3))) },
      series: [
        { name: "the day's mean", colour: "c0", kind: "line", points: days.map((row) => [row.at + DAY_MS / 2, row.shift]) },
        { name: "by chance", colour: "other", kind: "line", dots: false, dash: true, points: days.map((row) => [row.at + DAY_MS / 2, row.by_chance]) },
      ],
      stops: days.map((row) => ({ x: row.at + DAY_MS / 2, head: `${row.day} · ${counted(row.photos, "photo")}`, values: [fixed(row.shift), fixed(row.by_chance)] })),
      columns: ["day"],
    });
  }

  // A chart of lines or bars over one axis. Pointer, finger and arrow keys go from stop to stop; a table tells the same.
  function figure(id, spec) {
    const section = document.getElementById(id);
    section.append(el("h2", {}, spec.title));
    if (spec.none) return section.append(el("p", { class: "none" }, spec.none));
    section.append(el("p", { class: "caption" }, spec.caption));
    const keys = el("ul", { class: "keys" });
    for (const series of spec.series) keys.append(el("li", {}, swatch(series.colour, series.dash ? "dash" : series.kind), series.name));
    const said = el("div", { class: "said", "aria-live": "polite" });
    const tip = el("div", { class: "tip", hidden: "" });
    const svg = draw("svg", { role: "img", tabindex: "0", "aria-label": `${spec.title}. ${spec.caption} Arrow keys read the values.` });
    const plot = el("div", { class: "plot" }, svg, tip, said);
    section.append(keys, plot, table(spec));
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
      spec.series.forEach((series, n) => rows.append(el("dt", {}, swatch(series.colour, series.dash ? "dash" : series.kind), series.name), el("dd", {}, values[n])));
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
    const { height } = spec, top = spec.marks ? 22 : 10, bottom = height - (spec.x.name ? 40 : 26);
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
    if (spec.x.name) svg.append(draw("text", { x: (left + right) / 2, y: height - 4, "text-anchor": "middle", class: "name" }, spec.x.name));
    for (const { x: at, name } of spec.marks || []) {
      const end = x.at(at) > (left + right) / 2;
      svg.append(draw("line", { x1: x.at(at), x2: x.at(at), y1: 6, y2: bottom, stroke: "var(--ink)", "stroke-dasharray": "4 4", opacity: 0.55 }));
      svg.append(draw("text", { x: x.at(at) + (end ? -6 : 6), y: 14, "text-anchor": end ? "end" : "start" }, name));
    }
    const bars = spec.series.filter((series) => series.kind === "bar");
    if (bars.length) stack(svg, bars, x, y, bottom);
    for (const series of spec.series.filter((one) => one.kind === "line")) line(svg, series, x, y, bottom);
    svg.append(draw("line", { x1: left, x2: right, y1: bottom, y2: bottom, stroke: "var(--line)" }));
    const cursor = draw("g", { "pointer-events": "none" });
    svg.append(cursor);
    return { x: x.at, top, bottom, cursor };
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
    svg.append(draw("path", { d: path, fill: "none", stroke: colour, "stroke-width": series.strong ? 3 : 2, "stroke-linejoin": "round", "stroke-linecap": "round", ...(series.dash ? { "stroke-dasharray": "6 5" } : {}) }));
    if ((series.dots === false || series.dash) && points.length > 1) return;
    const r = points.length > 60 ? 1.8 : 3;
    for (const [px, py] of points) svg.append(draw("circle", { cx: px, cy: py, r, fill: colour }));
  }

  function yScale(spec, top, bottom) {
    const values = spec.series.flatMap((series) => series.points.map(([, value]) => value));
    if (spec.y.log) {
      const low = Math.log10(spec.y.least) - 0.08, high = Math.max(Math.log10(Math.max(...values, spec.y.least * 2)) + 0.08, low + 0.7);
      return { at: (value) => bottom - ((Math.max(Math.log10(Math.max(value, 1e-12)), low) - low) / (high - low)) * (bottom - top), ticks: logTicks(low, high, spec.y.format === duration) };
    }
    const stacked = spec.series[0].kind === "bar" ? spec.series[0].points.map((_, n) => spec.series.reduce((sum, series) => sum + series.points[n][1], 0)) : values;
    const high = spec.y.top || niceTop(Math.max(...stacked, 0), spec.y.whole);
    const ticks = spec.y.top === 90 ? [0, 30, 60, 90] : spec.y.top === 1 ? [0, 0.25, 0.5, 0.75, 1] : steps(high, spec.y.whole);
    return { at: (value) => bottom - (value / high) * (bottom - top), ticks };
  }

  function xScale(axis, left, right) {
    const low = axis.log ? Math.log10(axis.min) : axis.min, high = axis.log ? Math.log10(axis.max) : axis.max;
    const at = (value) => left + (((axis.log ? Math.log10(value) : value) - low) / (high - low || 1)) * (right - left);
    if (axis.log) {
      const ticks = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].filter((tick) => tick >= axis.min && tick * 1.25 < axis.max);
      return { at, ticks: [...ticks, axis.max].map((tick) => [tick, axis.format(tick)]) };
    }
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
    const ticks = [];
    for (let at = Math.ceil(axis.min / step) * step; at <= axis.max; at += step) {
      const midnight = at % DAY_MS === 0;
      ticks.push([at, step >= DAY_MS || midnight ? dayName(at) : clock(at, step < 60000)]);
    }
    return ticks;
  }

  function logTicks(low, high, isDuration) {
    const candidates = isDuration
      ? [0.01, 0.1, 1, 10, 60, 600, 3600, 6 * 3600, 86400, 7 * 86400, 28 * 86400, 365 * 86400]
      : [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1];
    const between = (ticks) => ticks.filter((tick) => Math.log10(tick) >= low && Math.log10(tick) <= high);
    const decades = between(candidates);
    if (decades.length >= 3) return decades;
    if (isDuration) return between([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 3 * 3600, 6 * 3600, 86400, 3 * 86400, 7 * 86400, 28 * 86400, 365 * 86400]);
    const finer = [];
    for (let power = Math.floor(low); power <= high; power++) finer.push(...[1, 2, 5].map((digit) => Number((digit * 10 ** power).toPrecision(1))));
    return between(finer);
  }

  function niceTop(value, whole) {
    const step = niceStep(value, whole);
    return Math.max(Math.ceil(value / step - 1e-9), 1) * step;
  }
  function niceStep(value, whole) {
    const rough = (value || 1) / 5, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((digit) => digit * power).find((one) => one >= rough - 1e-12);
    return whole ? Math.max(step, 1) : step;
  }
  function steps(high, whole) {
    const step = niceStep(high, whole);
    return Array.from({ length: Math.round(high / step) + 1 }, (_, n) => Number((n * step).toPrecision(6)));
  }

  function table(spec) {
    const details = el("details", {}, el("summary", {}, "As a table"));
    details.addEventListener("toggle", () => {
      if (details.querySelector("table")) return;
      const head = el("tr", {}, ...[...spec.columns, ...spec.series.map((series) => series.name)].map((name) => el("th", { scope: "col" }, name)));
      const rows = spec.stops.map((stop) => el("tr", {}, ...[stop.head, ...stop.values].map((value) => el("td", {}, value))));
      details.append(el("div", { class: "scroll", tabindex: "0" }, el("table", {}, head, ...rows)));
    });
    return details;
  }

  function map() {
    const section = document.getElementById("map"), shown = data.pca_map;
    section.append(el("h2", {}, "The photos in PCA space"));
    if (!shown || !shown.photos.length) {
      return section.append(el("p", { class: "none" }, data.serving === null ? "No PCA version is served yet. Run fruits refit --reproject." : shown ? "No photo is projected with the served version yet." : "The served version has a single component; a map needs two."));
    }
    const all = shown.photos.length === shown.of_photos;
    section.append(el("p", { class: "caption" }, `Version ${data.serving}, ${all ? `all ${counted(shown.of_photos, "photo")}` : `${number(shown.photos.length)} of ${counted(shown.of_photos, "photo")}, chosen by their hash`}. Photos that the network sees as alike lie together. Choose labels below the map; hover, tap or use the arrow keys to see a photo.`));
    const tip = el("div", { class: "tip", hidden: "" }), said = el("div", { class: "said", "aria-live": "polite" });
    const svg = draw("svg", { role: "img", tabindex: "0", "aria-label": "Map of photos along the two leading components. Arrow keys go from photo to photo." });
    const plot = el("div", { class: "plot" }, svg, tip, said);
    const labels = el("div", { class: "labels", role: "group", "aria-label": "Labels to show" });
    const showing = el("p", { class: "showing", role: "status" });
    section.append(plot, labels, showing);
    const chosen = new Set();
    let marks = [], at = -1, pinned = false, ring = null;
    legend();
    onWidth(plot, redraw);
    filter();

    function legend() {
      const everyone = el("button", { type: "button", "aria-pressed": "true" }, "all");
      everyone.addEventListener("click", () => { chosen.clear(); filter(); });
      labels.append(everyone);
      shown.labels.forEach(([label, count], place) => add(place, labelNode(label), count));
      const beyond = shown.of_photos - shown.labels.reduce((sum, [, count]) => sum + count, 0);
      if (beyond) add(null, "other labels", beyond);

      function add(place, name, count) {
        const button = el("button", { type: "button", "aria-pressed": "false" }, swatch(colourOf(place), shapeOf(place)), name, el("span", { class: "count" }, number(count)));
        button.addEventListener("click", () => { chosen.delete(place) || chosen.add(place); filter(); });
        button.place = place;
        labels.append(button);
      }
    }

    function filter() {
      for (const button of labels.children) button.setAttribute("aria-pressed", String(button.place === undefined ? !chosen.size : chosen.has(button.place)));
      for (const mark of marks) mark.node.classList.toggle("dim", !isShown(mark.photo));
      const count = shown.photos.filter(isShown).length;
      showing.textContent = `Showing ${number(count)} of ${counted(shown.photos.length, "photo")}.`;
      hide();
    }
    function isShown(photo) { return !chosen.size || chosen.has(photo.label); }

    function redraw(width) {
      const height = Math.round(Math.min(Math.max(width * 0.62, 320), 600)), edge = 22, foot = 26;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.setAttribute("height", height);
      const x = spread(shown.photos.map((photo) => photo.x), edge + 18, width - edge), y = spread(shown.photos.map((photo) => photo.y), height - foot - edge, edge);
      svg.append(draw("rect", { x: 18, y: 0, width: width - 18, height: height - foot, rx: 8, fill: "none", stroke: "var(--line)" }));
      for (const zero of [draw("line", { x1: x(0), x2: x(0), y1: 0, y2: height - foot }), draw("line", { x1: 18, x2: width, y1: y(0), y2: y(0) })]) {
        zero.setAttribute("stroke", "var(--grid)");
        svg.append(zero);
      }
      svg.append(draw("text", { x: (width + 18) / 2, y: height - 6, "text-anchor": "middle" }, `first component, ${percent(shown.shares[0])} of the variance`));
      svg.append(draw("text", { x: 0, y: 0, transform: `translate(11 ${(height - foot) / 2}) rotate(-90)`, "text-anchor": "middle" }, `second, ${percent(shown.shares[1])}`));
      const r = shown.photos.length > 900 ? 3.2 : width < 500 ? 4 : 5;
      const tiles = shown.photos.length <= MOST_TILES, tile = width < 500 ? 22 : 36;
      marks = shown.photos.map((photo) => ({ photo, x: x(photo.x), y: y(photo.y) }));
      const order = [...marks].sort((a, b) => rank(a.photo) - rank(b.photo));
      for (const mark of order) {
        mark.node = tiles && mark.photo.thumbnail ? tileNode(mark, tile) : shapeNode(shapeOf(mark.photo.label), mark.x, mark.y, r);
        mark.node.setAttribute("fill", `var(--${colourOf(mark.photo.label)})`);
        mark.node.setAttribute("class", "mark");
        svg.append(mark.node);
      }
      ring = draw("circle", { r: tiles && shown.photos.some((photo) => photo.thumbnail) ? tile * 0.82 : r + 4, fill: "none", stroke: "var(--ink)", "stroke-width": 2, visibility: "hidden" });
      svg.append(ring);
      filter();
    }
    function rank(photo) { return photo.label === null || photo.label >= data.coloured_labels ? 0 : 1; }

    function reveal(index, pin, aloud) {
      const { photo, x, y } = marks[index];
      at = index; pinned = pin;
      ring.setAttribute("cx", x); ring.setAttribute("cy", y); ring.setAttribute("visibility", "visible");
      const label = photo.label === null ? null : shown.labels[photo.label][0];
      const name = photo.label === null ? "another label" : labelNode(label);
      const facts = el("dl", {}, el("dt", {}, "key"), el("dd", {}, el("bdi", {}, photo.key)), el("dt", {}, "arrived"), el("dd", {}, `${moment(photo.arrived_at)}`), el("dt", {}, "image"), el("dd", {}, photo.image_id));
      const card = el("div", { class: "photo" });
      if (photo.thumbnail) card.append(el("img", { src: photo.thumbnail, alt: "" }));
      card.append(el("div", {}, el("strong", {}, name), facts));
      tip.replaceChildren(card);
      tip.classList.toggle("pinned", pin);
      tip.hidden = false;
      place(tip, plot, x, y);
      if (aloud) said.textContent = `${label === null ? "no label" : label}, ${photo.key}, arrived ${moment(photo.arrived_at)}`;
    }
    function hide() {
      at = -1; pinned = false; tip.hidden = true;
      if (ring) ring.setAttribute("visibility", "hidden");
    }
    function nearest(px, py, within) {
      let best = -1, least = within * within;
      marks.forEach((mark, n) => {
        const distance = (mark.x - px) ** 2 + (mark.y - py) ** 2;
        if (distance <= least && isShown(mark.photo)) { best = n; least = distance; }
      });
      return best;
    }
    const under = (event, within) => {
      const box = svg.getBoundingClientRect();
      return nearest(event.clientX - box.left, event.clientY - box.top, within);
    };
    svg.addEventListener("pointermove", (event) => {
      if (pinned || event.pointerType !== "mouse") return;
      const found = under(event, 18);
      found < 0 ? hide() : reveal(found, false);
    });
    svg.addEventListener("pointerleave", () => pinned || hide());
    svg.addEventListener("click", (event) => {
      const found = under(event, 26);
      found < 0 || (pinned && found === at) ? hide() : reveal(found, true);
    });
    svg.addEventListener("keydown", (event) => {
      const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "Escape") return hide();
      if (!way) return;
      event.preventDefault();
      const box = svg.viewBox.baseVal;
      if (at < 0) return reveal(nearest(box.width / 2, box.height / 2, Infinity), true, true);
      let best = at, least = Infinity;
      marks.forEach((mark, n) => {
        const dx = mark.x - marks[at].x, dy = mark.y - marks[at].y, ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
        if (n === at || ahead <= 0 || !isShown(mark.photo)) return;
        if (ahead + 2 * aside < least) { best = n; least = ahead + 2 * aside; }
      });
      reveal(best, true, true);
    });
  }

  function labelNode(label) { return label ? el("bdi", {}, label) : el("em", {}, label === null ? "no label" : "empty label"); }
  function colourOf(place) { return place === null || place >= data.coloured_labels ? "other" : COLOURS[place % 6]; }
  function shapeOf(place) { return place === null || place >= data.coloured_labels ? "small" : place >= 6 ? "diamond" : "circle"; }
  function shapeNode(shape, x, y, r) {
    if (shape === "diamond") { const s = r * 1.25; return draw("path", { d: `M${x} ${y - s}L${x + s} ${y}L${x} ${y + s}L${x - s} ${y}Z` }); }
    return draw("circle", { cx: x, cy: y, r: shape === "small" ? r * 0.72 : r });
  }
  function tileNode({ photo, x, y }, side) {
    const box = { x: x - side / 2, y: y - side / 2, width: side, height: side };
    return draw("g", {}, draw("image", { ...box, href: photo.thumbnail }), draw("rect", { ...box, rx: 3, fill: "none", stroke: `var(--${colourOf(photo.label)})`, "stroke-width": side / 12 }));
  }
  function spread(values, from, to) {
    const low = Math.min(...values), high = Math.max(...values);
    return (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);
  }

  function swatch(colour, kind) {
    const svg = draw("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }), fill = `var(--${colour})`;
    if (kind === "line" || kind === "dash") svg.append(draw("line", { x1: 0, x2: 14, y1: 7, y2: 7, stroke: fill, "stroke-width": 3, ...(kind === "dash" ? { "stroke-dasharray": "4 3" } : {}) }));
    else if (kind === "bar") svg.append(draw("rect", { x: 1, y: 1, width: 12, height: 12, rx: 3, fill }));
    else { const node = shapeNode(kind, 7, 7, 5); node.setAttribute("fill", fill); svg.append(node); }
    return svg;
  }
  function place(tip, plot, x, y) {
    const room = plot.clientWidth, width = tip.offsetWidth, height = tip.offsetHeight;
    const left = x + 16 + width <= room ? x + 16 : x - 16 - width >= 0 ? x - 16 - width : Math.max(0, Math.min(x - width / 2, room - width));
    const beside = left > x || left + width < x;
    tip.style.left = `${left}px`;
    tip.style.top = `${Math.max(0, beside ? Math.min(y, plot.clientHeight - height) : y + 18)}px`;
  }
  function onWidth(node, redraw) {
    let width = 0;
    const look = () => {
      const now = node.clientWidth;
      if (now && now !== width) { width = now; redraw(now); }
    };
    look();
    new ResizeObserver(look).observe(node);
  }

  function filled() {
    const step = data.bin_s * 1000, known = new Map(data.flow.map((bin) => [bin.at, bin])), bins = [];
    if (!data.flow.length) return bins;
    for (let at = data.flow[0].at; at <= data.flow[data.flow.length - 1].at; at += step) bins.push(known.get(at) || { at, photos: 0, rejects: 0 });
    return bins;
  }
  function versionName(version) { return `version ${version.version}${version.version === data.serving ? ", served" : ""}`; }

  function number(value) { return Number(value).toLocaleString("en"); }
  function counted(count, one, many) { return `${number(count)} ${count === 1 ? one : many || `${one}s`}`; }
  function rate(value) { return value >= 100 ? number(Math.round(value)) : Number(value.toPrecision(2)).toLocaleString("en"); }
  function percent(share, digits) {
    if (digits !== undefined) return `${(100 * share).toFixed(digits)} %`;
    const value = 100 * share;
    return `${value === 0 ? 0 : value >= 10 ? value.toFixed(1).replace(/\.0$/, "") : Number(value.toPrecision(2))} %`;
  }
  function size(bytes) {
    const units = ["bytes", "kB", "MB", "GB", "TB"], power = bytes ? Math.min(Math.floor(Math.log10(bytes) / 3), 4) : 0;
    return `${Number((bytes / 1000 ** power).toPrecision(3))} ${units[power]}`;
  }
  function duration(seconds) {
    const two = (value) => String(Number(value.toPrecision(2)));
    if (seconds < 0.95) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 60) return `${two(seconds)} s`;
    if (seconds < 3600) return `${two(seconds / 60)} min`;
    return seconds < 86400 ? `${two(seconds / 3600)} h` : `${two(seconds / 86400)} d`;
  }
  function two(value) { return String(value).padStart(2, "0"); }
  function clock(at, seconds) {
    const time = new Date(at);
    return `${two(time.getUTCHours())}:${two(time.getUTCMinutes())}${seconds ? `:${two(time.getUTCSeconds())}` : ""}`;
  }
  function dayName(at) { const time = new Date(at); return `${time.getUTCDate()} ${MONTHS[time.getUTCMonth()]}`; }
  function moment(at) { return `${dayName(at)} ${new Date(at).getUTCFullYear()}, ${clock(at, true)}`; }
  function span(first, last) {
    return dayName(first) === dayName(last) ? `${dayName(first)}, ${clock(first)} – ${clock(last)}` : `${dayName(first)} ${clock(first)} – ${dayName(last)} ${clock(last)}`;
  }

  function el(name, attributes, ...children) { return filledIn(document.createElement(name), attributes, children); }
  function draw(name, attributes, ...children) { return filledIn(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children); }
  function filledIn(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    // Strings become text nodes, whatever is in them.
    node.append(...children);
    return node;
  }
})();
