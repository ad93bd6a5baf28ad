// The labels of the map: a click highlights one, a search finds those that have no button, and each that is highlighted
// has a colour and a shape of its own as long as there are any.
function labelLegend(shown, changed) {
  const chosen = new Set(), lent = new Map();
  const labels = el("div", { class: "labels", role: "group", "aria-label": "Labels to highlight" });
  const found = el("p", { class: "found", role: "status" });
  const field = el("input", { type: "search", id: "find-label", autocomplete: "off", spellcheck: "false" });
  const search = el("div", { class: "search" }, el("label", { for: "find-label" }, "Find a label"), field, found);
  const names = shown.labels.map(([label]) => labelText(label).toLowerCase());
  const beyond = shown.of_photos - shown.labels.reduce((sum, [, count]) => sum + count, 0);
  field.addEventListener("input", list);
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && field.value) { field.value = ""; event.preventDefault(); list(); }
    if (event.key !== "Enter") return;
    event.preventDefault();
    const some = matching();
    if (!field.value.trim() || !some.length) return;
    const isOn = areOn(some);
    for (const place of some) choose(place, !isOn);
    update();
  });
  list();
  return { nodes: shown.labels.length > data.coloured_labels / 2 ? [search, labels] : [labels], styleOf, highlight, isChosen: (place) => !chosen.size || chosen.has(place) };

  function highlight(some) {
    chosen.clear(); lent.clear(); field.value = "";
    shown.labels.forEach(([label], place) => some.includes(label) && choose(place, true));
    update();
  }
  function matching() {
    const words = field.value.trim().toLowerCase().normalize("NFC");
    return names.map((_, place) => place).filter((place) => names[place].includes(words));
  }
  function areOn(places) { return places.every((place) => chosen.has(place)); }
  function list() {
    const some = matching(), isSearched = field.value.trim() !== "";
    const listed = [...some.slice(0, MOST_BUTTONS), ...[...chosen].filter((place) => place !== null && !some.slice(0, MOST_BUTTONS).includes(place))];
    const everyone = el("button", { type: "button" }, "all");
    everyone.addEventListener("click", () => { chosen.clear(); lent.clear(); update(); });
    labels.replaceChildren(everyone, ...listed.map((place) => button(place, labelNode(shown.labels[place][0]), shown.labels[place][1])));
    if (beyond && !isSearched) labels.append(button(null, "other labels", beyond));
    const more = some.length - MOST_BUTTONS;
    found.textContent = isSearched ? `${number(some.length)} of ${counted(names.length, "label")}${!some.length ? "" : areOn(some) ? "; highlighted" : "; Enter highlights them"}.` : more > 0 ? `${counted(names.length, "label")}; search for the ${number(more)} that have no button.` : "";
    for (const node of labels.children) node.setAttribute("aria-pressed", String(node.place === undefined ? !chosen.size : chosen.has(node.place)));
  }
  function button(place, name, count) {
    const style = styleOf(place);
    const node = el("button", { type: "button" }, swatch(style.colour, style.shape), name, el("span", { class: "count" }, number(count)));
    node.place = place;
    node.addEventListener("click", () => { choose(place, !chosen.has(place)); update(place); });
    return node;
  }
  function choose(place, isOn) {
    isOn ? chosen.add(place) : chosen.delete(place);
    if (!isOn) lent.delete(place);
    else if (place !== null && !isColoured(place) && !lent.has(place)) lend(place);
  }
  // A label without a colour of its own gets one that no highlighted label has.
  function lend(place) {
    const taken = new Set([...chosen].filter((one) => one !== place).map((one) => styleNumber(one)));
    const free = Array.from({ length: data.coloured_labels }, (_, n) => n).find((n) => !taken.has(n));
    if (free !== undefined) lent.set(place, free);
  }
  function styleNumber(place) { return isColoured(place) ? place : lent.get(place); }
  function styleOf(place) {
    const n = styleNumber(place);
    return n === undefined ? { colour: "other", shape: "small" } : { colour: COLOURS[n % COLOURS.length], shape: SHAPES[Math.floor(n / COLOURS.length) % SHAPES.length] };
  }
  function update(pressed) {
    // The buttons are made anew: who pressed one stays on it.
    const isOnButton = labels.contains(document.activeElement);
    list();
    if (isOnButton) [...labels.children].find((node) => node.place === pressed)?.focus();
    changed();
  }
}
