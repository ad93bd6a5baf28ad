// What rounding leaves of a direction without variance is not drawn.
const LEAST_SHARE = 1e-6;

headline();
flow();
latency();
pace();
reasons();
spectra();
turn();
shift();
accuracy();
reliability();
confusion(map());
showGalleries();
contents();

function headline() {
  const { totals, accuracy, pca_map: shown } = data;
  document.getElementById("home").append(el("bdi", {}, data.home), ` · made ${moment(data.made_at)} UTC`);
  if (data.since) document.getElementById("home").append(el("span", { class: "since" }, `Only what was ingested from ${data.since} on. ${leftOut(data.left_out)}`));
  if (shown && shown.photos.some((photo) => photo.thumbnail)) document.getElementById("pictures").textContent = ", and small pictures of them";
  const landed = totals.photos + totals.rejects;
  const served = data.versions.find((version) => version.version === data.serving);
  const worked = data.pace.reduce((sum, bin) => sum + bin.photos / bin.per_s, 0);
  const photos = data.pace.reduce((sum, bin) => sum + bin.photos, 0);
  const known = data.pace.every((bin) => bin.limit_per_s);
  const least = data.pace.reduce((sum, bin) => sum + bin.photos / bin.limit_per_s, 0);
  const figures = [
    ["Photos", number(totals.photos), `${counted(totals.labels, "label")} · ${size(totals.photo_bytes)}`],
    ["Rejects", number(totals.rejects), landed ? `${percent(totals.rejects / landed)} of what landed` : `nothing landed${data.since ? "" : " yet"}`],
    ["Wait, median", totals.median_s === null ? "–" : duration(totals.median_s), totals.p95_s === null ? "no photo yet" : `95 % within ${duration(totals.p95_s)}`],
    ["Pace at work", photos ? `${rate(photos / worked)}/s` : "–", photos && known ? `${percent(least / worked, 0)} of the cores' limit, ${rate(photos / least)}/s` : photos ? "the limit is not known" : "no recent batch"],
    ["PCA served", served ? `version ${served.version}` : "none", served ? `${counted(served.components, "component")}, ${percent(served.explained)} of the variance` : "run fruits refit --reproject"],
    ["Answers right", accuracy.of ? percent(accuracy.share) : "–", accuracy.of ? `of ${number(accuracy.of)} in 28 days; ${percent(accuracy.low)} to ${percent(accuracy.high)} likely` : "no answer to a photo with a label"],
    ["Span", totals.first_at === null ? "–" : duration((totals.last_at - totals.first_at) / 1000), totals.first_at === null ? "" : span(totals.first_at, totals.last_at)],
  ];
  const section = document.getElementById("headline");
  for (const [name, value, more] of figures) {
    section.append(el("div", { class: "figure" }, el("div", { class: "name" }, name), el("div", { class: "value" }, value), el("div", { class: "more" }, more)));
  }
}

// The way to what a page that is long on a phone has below.
function contents() {
  const names = [["flow", "over time"], ["map", "map"], ["accuracy", "accuracy"], ["confusion", "mixed up"], ...galleries.map(({ name }) => [`gallery-${name}`, name.replaceAll("_", " ")]), ["latency", "waits"], ["scree", "PCA"], ["reasons", "rejects"]];
  document.getElementById("contents").append(...names.map(([id, name]) => el("a", { href: `#${id}` }, name)));
}

function flow() {
  overTime("flow", filled(), data.bin_s, {
    title: "Photos and rejects over time",
    caption: `By the time of ingestion, in intervals of ${duration(data.bin_s)}.`,
    none: !data.flow.length && (data.since ? `Nothing was ingested from ${data.since} on.` : "Nothing was ingested yet. Drop photos into the landing and run fruits stream."),
    height: 240, format: number, whole: true,
    series: [{ name: "photos", field: "photos", colour: "c2", kind: "bar" }, { name: "rejects", field: "rejects", colour: "c4", kind: "bar" }],
  });
}

function latency() {
  const bins = data.flow.filter((bin) => bin.p50_s !== null);
  overTime("latency", bins, data.bin_s, {
    title: "From arrival to ingestion",
    caption: "The time from arrival to ingestion. A photo that was there before the stream started has waited since its arrival. The axis is logarithmic: each step is several times as long as the one below.",
    none: !bins.length && (data.since ? `No photo was ingested from ${data.since} on.` : "No photo was ingested yet."),
    height: 300, format: duration, waits: true,
    series: [{ name: "median", field: "p50_s", colour: "c0" }, { name: "95 %", field: "p95_s", colour: "c1" }, { name: "99 %", field: "p99_s", colour: "c4" }],
  });
}

function pace() {
  const limit = data.pace.some((bin) => bin.limit_per_s) ? [{ name: "limit of the cores", field: "limit_per_s", colour: "c4", dash: true }] : [];
  overTime("pace", data.pace, data.pace_bin_s, {
    title: "Photos a second, and the limit",
    caption: "The newest batches, while they were at work. The limit is the rate at which the cores could decode and infer these photos. If few photos arrive, the stream waits for photos, not for cores.",
    none: !data.pace.length && "No batch of the last day has left a result.",
    height: 230, format: rate,
    head: (bin) => `${moment(bin.at)} · ${counted(Math.round(bin.photos), "photo")} in ${counted(bin.batches, "batch", "batches")}`,
    series: [{ name: "photos a second", field: "per_s", colour: "c2" }, ...limit],
  });
}

function reasons() {
  const section = document.getElementById("reasons");
  section.append(el("h2", {}, "Rejects by reason"));
  if (!data.reasons.length) return section.append(el("p", { class: "none" }, "Nothing was rejected."));
  const most = Math.max(...data.reasons.map(({ files }) => files));
  const bars = el("div", { class: "bars" });
  for (const { reason, files } of data.reasons) {
    const bar = el("div", { class: "bar", "aria-hidden": "true" });
    bar.style.width = `${(100 * files) / most}%`;
    bars.append(el("bdi", {}, reason), bar, el("span", {}, number(files)));
  }
  section.append(el("p", { class: "caption" }, "Why files were rejected. fruits rejects says what to do about each reason."), bars);
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
    ...common(2, percent), y: { ticks: [0, 0.25, 0.5, 0.75, 1], format: (share) => percent(share, 0) },
  });
}

function turn() {
  const turned = data.versions.filter((version) => version.angles_deg.length).slice(-6);
  const most = Math.max(0, ...turned.map((version) => version.angles_deg.length));
  const angle = (degrees) => (degrees === undefined ? "–" : `${degrees < 10 ? degrees.toFixed(1) : Math.round(degrees)}°`);
  figure("turn", {
    title: "Drift of the PCA",
    caption: "The principal angles between the subspaces of a version and of its parent, in ascending order. 0° is the same space; 90° is a direction that the parent does not have.",
    none: !turned.length && "There is one version at most. Each refit is compared with the one before.",
    height: 230, x: { min: 1, max: Math.max(most, 2), format: number, name: "angle" }, y: { ticks: [0, 30, 60, 90], format: (degrees) => `${degrees}°` },
    series: turned.map((version, place) => ({ name: `version ${version.version} from ${version.parent}`, colour: COLOURS[place % 6], kind: "line", dots: most < 20, points: version.angles_deg.map((degrees, n) => [n + 1, degrees]) })),
    stops: Array.from({ length: most }, (_, n) => ({ x: n + 1, head: `angle ${n + 1}`, values: turned.map((version) => angle(version.angles_deg[n])) })),
    columns: ["angle"],
  });
}

function shift() {
  const days = data.shifts.map((row) => ({ ...row, at: Date.parse(row.day) }));
  overTime("shift", days, 86400, {
    title: "Drift of the photos",
    caption: "The distance between a day's mean projection and the served version's mean, in standard deviations of one photo. The dashed line is what chance gives.",
    none: !days.length && (data.since ? `No photo ingested from ${data.since} on is projected with the served version.` : "No photo is projected with a served version yet."),
    height: 230, format: (value) => value.toFixed(2), tick: (value) => String(Number(value.toPrecision(3))), columns: ["day"],
    head: (row) => `${row.day} · ${counted(row.photos, "photo")}`,
    series: [{ name: "the day's mean", field: "shift", colour: "c0" }, { name: "by chance", field: "by_chance", colour: "other", dots: false, dash: true }],
  });
}

// A figure over time: each row is about `bin_s` seconds from `at` on, and each series shows one field of the rows.
function overTime(id, rows, bin_s, { series, format, tick, head, whole, waits, ...spec }) {
  const middle = (row) => row.at + bin_s * 500, known = (row, field) => row[field] !== null;
  figure(id, {
    columns: ["from"], ...spec, x: timeAxis(rows, bin_s), y: { whole, waits, format: tick || format },
    series: series.map(({ field, ...one }) => ({ kind: "line", width: bin_s * 1000, ...one, points: rows.filter((row) => known(row, field)).map((row) => [one.kind === "bar" ? row.at : middle(row), row[field]]) })),
    stops: rows.map((row) => ({ x: middle(row), head: head ? head(row) : moment(row.at), values: series.map(({ field }) => (known(row, field) ? format(row[field]) : "–")) })),
  });
}

function filled() {
  const step = data.bin_s * 1000, known = new Map(data.flow.map((bin) => [bin.at, bin])), bins = [];
  if (!data.flow.length) return bins;
  for (let at = data.flow[0].at; at <= data.flow[data.flow.length - 1].at; at += step) bins.push(known.get(at) || { at, photos: 0, rejects: 0 });
  return bins;
}
function leftOut({ photos, rejects, batches, days }) {
  if (!photos && !rejects) return "Nothing was ingested before.";
  return `Left out, because it came before: ${counted(photos, "photo")} and ${counted(rejects, "reject")}, in ${counted(batches, "batch", "batches")} of ${counted(days, "day")}.`;
}
function versionName(version) { return `version ${version.version}${version.version === data.serving ? ", served" : ""}`; }
