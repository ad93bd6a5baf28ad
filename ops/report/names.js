// What answers and names were: right or wrong, honest about it or not, and which labels they mix up.
const FIRST_PAIRS = 12;
const SHARES = [0, 0.25, 0.5, 0.75, 1];

function accuracy() {
  const { rows, none, command } = data.names.accuracy;
  const weeks = rows.map((row) => ({ ...row, at: Date.parse(row.week) }));
  const last = weeks.length && weeks[weeks.length - 1].at;
  figure("accuracy", {
    title: "Answers that were right", caption: "By week. Answers to photos that came with a label or were drawn at random, as the app got them; no refit changes them. The line through a dot shows where the true share lies, with 95 % certainty; the number above it counts the answers.",
    none: !rows.length && none, command, height: 260, columns: ["week from"],
    x: { ...timeAxis(weeks, 7 * 86400), ticks: weeks.map((week) => week.at + 3.5 * DAY_MS), format: (at) => dayName(at - 3.5 * DAY_MS) },
    ...shares(weeks, (week) => week.at + 3.5 * DAY_MS, (week) => `week from ${dayName(week.at)}${week.at === last ? ", the last" : ""}`),
  });
}

function reliability() {
  const { rows, none, command } = data.names.reliability;
  if (!rows.length && !data.names.accuracy.rows.length) return document.getElementById("reliability").remove();
  const { series: [range, right], stops, y } = shares(rows, (row) => row.confidence, (row) => `${percent(row.lowest, 0)} to ${percent(row.lowest + 0.1, 0)} sure`);
  figure("reliability", {
    title: "Whether the confidence is honest", caption: "Answers by how sure they were. On the dashed line as many are right as they promise; below it they promise too much. The numbers count the answers.",
    none: !rows.length && none, command, height: 260, columns: ["answers"],
    x: { min: 0, max: 1, ticks: SHARES, format: (share) => percent(share, 0), name: "how sure the answers were" }, y,
    series: [{ name: "as promised", kind: "line", colour: "other", dash: true, points: [[0, 0], [1, 1]] }, range, { ...right, apart: true }],
    stops: stops.map((stop, n) => ({ ...stop, values: [percent(rows[n].confidence), ...stop.values] })),
  });
}

// The share of the right ones in each row, its interval, and of how many.
function shares(rows, at, head) {
  return {
    y: { ticks: SHARES, format: (share) => percent(share, 0) },
    series: [
      { name: "likely from, to", kind: "range", colour: "soft", points: rows.map((row) => [at(row), row.low / 100, row.high / 100, number(row.answers)]) },
      { name: "right", kind: "line", colour: "c0", points: rows.map((row) => [at(row), row.percent / 100]) },
    ],
    stops: rows.map((row) => ({ x: at(row), head: `${head(row)} · ${counted(row.answers, "answer")}`, values: [`${row.low} to ${row.high} %`, `${number(row.correct)}, ${row.percent} %`] })),
  };
}

function confusion(shownMap) {
  const section = document.getElementById("confusion"), found = data.names.confusion;
  section.append(el("h2", {}, "Labels that are mixed up"));
  const none = data.names.no_names || (!found.rows.length && found.none);
  if (none) return section.append(el("p", { class: "none" }, ...coded(none)));
  section.append(el("p", { class: "caption" }, `What version ${data.serving} takes for what, the worst pairs first. Photos of its own fit are named as if they had been left out.${shownMap ? " A pair shows its photos on the map." : ""}`));
  const worst = Math.max(...found.rows.map((pair) => pair.photos));
  const list = el("ol", { class: "pairs" }), said = el("p", { class: "found", role: "status" });
  const field = el("input", { type: "search", id: "find-pair", autocomplete: "off", spellcheck: "false" });
  const more = el("button", { type: "button" });
  let most = FIRST_PAIRS;
  field.addEventListener("input", show);
  more.addEventListener("click", () => { most = Infinity; show(); list.children[FIRST_PAIRS].querySelector("button, div").focus(); });
  if (found.rows.length > FIRST_PAIRS) section.append(el("div", { class: "search" }, el("label", { for: "find-pair" }, "Find a label"), field, said));
  section.append(list, more, commandNode(found.command));
  show();

  function show() {
    const words = field.value.trim().toLowerCase().normalize("NFC");
    const some = found.rows.filter((pair) => [pair.label, pair.predicted].some((label) => label.toLowerCase().includes(words)));
    list.replaceChildren(...some.slice(0, most).map((pair) => el("li", {}, pairNode(pair, pair.photos / worst, shownMap))));
    said.textContent = words ? `${number(some.length)} of ${counted(found.rows.length, "pair")}.` : "";
    more.hidden = some.length <= most;
    more.textContent = `Show ${number(some.length - most)} more`;
  }
}

function pairNode(pair, length, shownMap) {
  const bar = el("span", { class: "bar", "aria-hidden": "true" });
  bar.style.width = `${100 * length}%`;
  const row = el(shownMap ? "button" : "div", shownMap ? { type: "button", class: "pair" } : { class: "pair" },
    el("span", { class: "what" }, labelNode(pair.label), el("span", { class: "count" }, " taken for "), labelNode(pair.predicted)),
    el("span", {}, bar),
    el("span", { class: "count" }, `${number(pair.photos)} of ${number(pair.of_label)}, ${percent(pair.percent / 100)}`));
  if (shownMap) row.addEventListener("click", () => shownMap.highlight([pair.label, pair.predicted]));
  return row;
}
