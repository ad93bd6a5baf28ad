// A photo with its picture takes more room than a mark: only so many are shown as tiles.
const MOST_TILES = 240;
const MOST_BUTTONS = 36;

function map() {
  const section = document.getElementById("map"), shown = data.pca_map;
  section.append(el("h2", {}, "Map of the photos"));
  if (!shown || !shown.photos.length) return section.append(el("p", { class: "none" }, ...coded(whyNoMap(shown))));
  const all = shown.photos.length === shown.of_photos;
  const planes = planesOf(shown), caption = el("p", { class: "caption" }), ways = el("div", { class: "switch", role: "group", "aria-label": "Directions of the map" });
  let plane = planes[0];
  section.append(caption);
  if (planes.length > 1) section.append(ways);
  const tip = el("div", { class: "tip", hidden: "" }), said = el("div", { class: "said", "aria-live": "polite" });
  const svg = draw("svg", { role: "img", tabindex: "0", "aria-label": "Map of photos along two directions. Arrow keys go from photo to photo, plus and minus zoom, 0 shows all, Shift with an arrow key moves the map." });
  const zoomed = el("span", { class: "level", "aria-live": "polite" });
  const buttons = el("div", { class: "zoom", role: "group", "aria-label": "Zoom of the map" }, zoomed);
  const plot = el("div", { class: "plot" }, svg, buttons, tip, said);
  const showing = el("p", { class: "showing", role: "status" });
  const legend = labelLegend(shown, () => paint());
  const help = "Click or tap a photo, or press an arrow key, to see it and the photos nearest to it. Zoom with the buttons, the wheel, two fingers or + and −; drag, or Shift with an arrow key, moves the map. Choose labels below the map.";
  section.append(plot, ...legend.nodes, showing, el("details", {}, el("summary", {}, "How to use the map"), el("p", { class: "caption" }, help)));
  const neighbours = neighboursOf(shown);
  const view = mapView(svg, buttons, zoomed, () => position());
  let marks = [], at = -1, pinned = false, ring = null, links = null, zeros = [], frame = null, inFront = null;
  look(plane);
  onWidth(plot, redraw);

  function look(chosen) {
    plane = chosen;
    caption.textContent = `Version ${data.serving}, ${all ? `all ${counted(shown.of_photos, "photo")}` : `${number(shown.photos.length)} of ${counted(shown.of_photos, "photo")}, chosen by their hash`}. ${plane.caption}`;
    ways.replaceChildren(...planes.map((one) => {
      const button = el("button", { type: "button", "aria-pressed": String(one === plane) }, one.name);
      button.addEventListener("click", () => { look(one); view.whole(); redraw(plot.clientWidth); ways.querySelector("[aria-pressed=true]").focus(); });
      return button;
    }));
  }

  function redraw(width) {
    const height = Math.round(Math.min(Math.max(width * 0.62, 320), 600)), edge = 22, foot = 26;
    frame = { left: 18, top: 0, right: width, bottom: height - foot };
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    const x = spread(plane.places.map((place) => place.x), edge + 18, width - edge), y = spread(plane.places.map((place) => place.y), height - foot - edge, edge);
    const box = { x: 18, y: 0, width: width - 18, height: height - foot, rx: 8 };
    const inside = draw("g", { "clip-path": "url(#map-frame)" });
    svg.append(draw("clipPath", { id: "map-frame" }, draw("rect", box)), inside, draw("rect", { ...box, fill: "none", stroke: "var(--line)", "pointer-events": "none" }));
    zeros = [draw("line", { y1: 0, y2: height - foot, stroke: "var(--grid)" }), draw("line", { x1: 18, x2: width, stroke: "var(--grid)" })];
    links = draw("g", { "pointer-events": "none" });
    inside.append(...zeros, links);
    svg.append(draw("text", { x: (width + 18) / 2, y: height - 6, "text-anchor": "middle" }, plane.axes[0]));
    svg.append(draw("text", { x: 0, y: 0, transform: `translate(11 ${(height - foot) / 2}) rotate(-90)`, "text-anchor": "middle" }, plane.axes[1]));
    const r = shown.photos.length > 900 ? 3.2 : width < 500 ? 4 : 5;
    const tile = shown.photos.length <= MOST_TILES ? (width < 500 ? 22 : 36) : 0;
    marks = shown.photos.map((photo, n) => ({ photo, x: 0, y: 0, home: { x: x(plane.places[n].x), y: y(plane.places[n].y) }, node: draw("g", { class: "mark" }) }));
    marks.zero = { x: x(plane.zero.x), y: y(plane.zero.y) };
    marks.size = { r, tile };
    inFront = draw("g", {});
    inside.append(inFront);
    ring = draw("circle", { r: tile && shown.photos.some((photo) => photo.thumbnail) ? tile * 0.82 : r + 4, fill: "none", stroke: "var(--ink)", "stroke-width": 2, visibility: "hidden", "pointer-events": "none" });
    inside.append(ring);
    view.fit(frame);
    position();
    paint();
  }

  // Where everything is at this zoom; marks keep their size.
  function position() {
    for (const mark of marks) {
      Object.assign(mark, view.at(mark.home));
      mark.node.setAttribute("transform", `translate(${mark.x.toFixed(1)} ${mark.y.toFixed(1)})`);
    }
    const zero = view.at(marks.zero);
    for (const end of ["x1", "x2"]) zeros[0].setAttribute(end, zero.x);
    for (const end of ["y1", "y2"]) zeros[1].setAttribute(end, zero.y);
    if (at >= 0) isInside(marks[at]) || pinned ? reveal(at, pinned) : hide();
  }

  function paint() {
    const { r, tile } = marks.size;
    for (const { photo, node } of marks) {
      const style = legend.styleOf(photo.label);
      node.replaceChildren(tile && photo.thumbnail ? tileNode(photo, style, tile) : shapeNode(style.shape, 0, 0, r));
      node.setAttribute("fill", `var(--${style.colour})`);
      node.classList.toggle("dim", !isShown(photo));
    }
    inFront.append(...[...marks].sort((a, b) => drawnAt(a.photo) - drawnAt(b.photo)).map((mark) => mark.node));
    showing.textContent = `Showing ${number(shown.photos.filter(isShown).length)} of ${counted(shown.photos.length, "photo")}.`;
    hide();
  }
  function isShown(photo) { return legend.isChosen(photo.label); }
  function drawnAt(photo) { return 2 * isShown(photo) + isColoured(photo.label); }
  function isInside({ x, y }) { return x >= frame.left && x <= frame.right && y >= frame.top && y <= frame.bottom; }

  function reveal(index, pin, aloud) {
    const { photo, x, y } = marks[index];
    const isNew = index !== at || pin !== pinned;
    at = index; pinned = pin;
    ring.setAttribute("cx", x); ring.setAttribute("cy", y); ring.setAttribute("visibility", "visible");
    const near = pin ? neighbours(index) : [];
    link(marks[index], near);
    if (isNew) tip.replaceChildren(card(photo), ...(near.length ? [nearList(near)] : []));
    tip.classList.toggle("pinned", pin);
    tip.hidden = false;
    // A photo that the zoom moved out of sight keeps its card at the edge.
    place(tip, plot, Math.min(Math.max(x, frame.left), frame.right), Math.min(Math.max(y, frame.top), frame.bottom));
    if (aloud) said.textContent = `${nameOf(photo)}, ${photo.key}, arrived ${moment(photo.arrived_at)}. ${near.length ? `Nearest: ${near.map((n) => nameOf(marks[n].photo)).join(", ")}.` : ""}`;
  }
  function card(photo) {
    const facts = el("dl", {}, el("dt", {}, "key"), el("dd", {}, el("bdi", {}, photo.key)), el("dt", {}, "arrived"), el("dd", {}, moment(photo.arrived_at)), el("dt", {}, "image"), el("dd", {}, photo.image_id));
    return el("div", { class: "photo" }, ...picture(photo), el("div", {}, el("strong", {}, labelOf(photo)), facts));
  }
  function picture(photo) { return photo.thumbnail ? [el("img", { src: photo.thumbnail, alt: "" })] : []; }
  function nearList(near) {
    const list = el("ol", { class: "near" });
    for (const n of near) {
      const { photo } = marks[n];
      const button = el("button", { type: "button" }, ...picture(photo), labelOf(photo), el("bdi", { class: "count" }, photo.key));
      button.addEventListener("click", () => { focusOn(n); svg.focus(); });
      list.append(el("li", {}, button));
    }
    return el("div", {}, el("div", { class: "count" }, `Nearest on this map, by all ${counted(shown.components, "component")}:`), list);
  }
  function link(from, near) {
    links.replaceChildren();
    near.forEach((n, place) => {
      const { x, y } = marks[n];
      links.append(draw("line", { x1: from.x, y1: from.y, x2: x, y2: y, stroke: "var(--ink)", "stroke-width": 1.5, opacity: 0.7 }), draw("circle", { cx: x, cy: y, r: marks.size.r + 3, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5 }), draw("text", { x: x + marks.size.r + 5, y: y - marks.size.r, class: "nth" }, String(place + 1)));
    });
  }
  function focusOn(index) {
    if (!isInside(marks[index])) view.centre(marks[index].home);
    reveal(index, true, true);
  }
  function hide() {
    at = -1; pinned = false; tip.hidden = true;
    if (links) links.replaceChildren();
    if (ring) ring.setAttribute("visibility", "hidden");
  }
  function labelOf(photo) { return photo.label === null ? "another label" : labelNode(shown.labels[photo.label][0]); }
  function nameOf(photo) { return photo.label === null ? "another label" : labelText(shown.labels[photo.label][0]); }

  function nearest(px, py, within) {
    let best = -1, least = within * within;
    marks.forEach((mark, n) => {
      const distance = (mark.x - px) ** 2 + (mark.y - py) ** 2;
      if (distance <= least && isShown(mark.photo) && isInside(mark)) { best = n; least = distance; }
    });
    return best;
  }
  const under = (event, within) => {
    const box = svg.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top, within);
  };
  svg.addEventListener("pointermove", (event) => {
    if (pinned || event.pointerType !== "mouse") return;
    if (view.isDragged()) return hide();
    const found = under(event, 18);
    found < 0 ? hide() : reveal(found, false);
  });
  svg.addEventListener("pointerleave", () => pinned || hide());
  svg.addEventListener("click", (event) => {
    if (view.wasDragged()) return;
    const found = under(event, 26);
    found < 0 || (pinned && found === at) ? hide() : reveal(found, true);
  });
  svg.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || event.shiftKey) return;
    event.preventDefault();
    if (at < 0) {
      const first = nearest((frame.left + frame.right) / 2, (frame.top + frame.bottom) / 2, Infinity);
      return first < 0 || reveal(first, true, true);
    }
    let best = at, least = Infinity;
    marks.forEach((mark, n) => {
      const dx = mark.x - marks[at].x, dy = mark.y - marks[at].y, ahead = dx * way[0] + dy * way[1], aside = Math.abs(dx * way[1]) + Math.abs(dy * way[0]);
      if (n === at || ahead <= 0 || !isShown(mark.photo)) return;
      if (ahead + 2 * aside < least) { best = n; least = ahead + 2 * aside; }
    });
    focusOn(best);
  });
  return { highlight(labels) { legend.highlight(labels); section.scrollIntoView(); } };
}

function whyNoMap(shown) {
  if (data.serving === null) return "No PCA version is served yet. Run fruits refit --reproject.";
  if (!shown) return "The served version has a single component; a map needs two.";
  return data.since ? `No photo ingested from ${data.since} on is projected with the served version.` : "No photo is projected with the served version yet.";
}

// The two ways to look at the photos: along the directions of most variance, and along those that part the labels.
function planesOf(shown) {
  const planes = [{
    name: "PCA", ...placesIn(shown.on_components),
    caption: "Along the directions in which the photos differ most. Photos that the network sees as alike lie together.",
    axes: [`first component, ${percent(shown.shares[0])} of the variance`, `second, ${percent(shown.shares[1])}`],
  }];
  if (shown.on_discriminants) {
    planes.push({
      name: "Discriminants", ...placesIn(shown.on_discriminants),
      caption: "Along the directions that tell the labels of the served version apart best. A photo far from its label's others is worth a look.",
      axes: [`first discriminant, ${percent(shown.parted[0])} of what parts the labels`, `second, ${percent(shown.parted[1])}`],
    });
  }
  return planes;
}

// Where each photo lies in a plane, and where 0 does.
function placesIn({ steps, zero: [x, y] }) {
  const step = sixteenBits(steps);
  return { places: data.pca_map.photos.map((_, n) => ({ x: step(2 * n), y: step(2 * n + 1) })), zero: { x, y } };
}

// For each photo the places of those nearest to it, nearest first.
function neighboursOf(shown) {
  const place = sixteenBits(shown.neighbours), each = shown.neighbours_each;
  return (index) => Array.from({ length: each }, (_, n) => place(index * each + n));
}
// Numbers of 16 bits, the low byte first.
function sixteenBits(text) {
  const bytes = atob(text);
  return (n) => bytes.charCodeAt(2 * n) + 256 * bytes.charCodeAt(2 * n + 1);
}

function labelText(label) { return label === null ? "no label" : label || "empty label"; }
function labelNode(label) { return el(label ? "bdi" : "em", {}, labelText(label)); }
function isColoured(place) { return place !== null && place < data.coloured_labels ? 1 : 0; }
function shapeNode(shape, x, y, r) {
  if (shape === "diamond") { const s = r * 1.25; return draw("path", { d: `M${x} ${y - s}L${x + s} ${y}L${x} ${y + s}L${x - s} ${y}Z` }); }
  if (shape === "square") { const s = r * 0.9; return draw("rect", { x: x - s, y: y - s, width: 2 * s, height: 2 * s }); }
  if (shape === "triangle") { const s = r * 1.2; return draw("path", { d: `M${x} ${y - s}L${x + s} ${y + s * 0.8}L${x - s} ${y + s * 0.8}Z` }); }
  return draw("circle", { cx: x, cy: y, r: shape === "small" ? r * 0.72 : r });
}
function tileNode(photo, style, side) {
  const box = { x: -side / 2, y: -side / 2, width: side, height: side };
  const corner = shapeNode(style.shape, side / 2 - 2, 2 - side / 2, side / 7);
  corner.setAttribute("stroke", "var(--card)");
  return draw("g", {}, draw("image", { ...box, href: photo.thumbnail }), draw("rect", { ...box, rx: 3, fill: "none", stroke: `var(--${style.colour})`, "stroke-width": side / 12 }), corner);
}
function spread(values, from, to) {
  const low = Math.min(...values), high = Math.max(...values);
  return (value) => (high > low ? from + ((value - low) / (high - low)) * (to - from) : (from + to) / 2);
}
