const data = JSON.parse(document.getElementById("data").textContent);
const galleries = data.names.galleries;
for (const photo of [...(data.pca_map ? data.pca_map.photos : []), ...galleries.flatMap((gallery) => gallery.photos)]) {
  if (photo.picture !== undefined) photo.thumbnail = data.pictures[photo.picture];
}
const COLOURS = ["c0", "c1", "c2", "c3", "c4", "c5"];
const SHAPES = ["circle", "diamond", "square", "triangle"];
// Whoever tells no colours apart tells lines by these.
const DASHES = ["", "8 4", "2 4", "10 3 2 3", "5 2", "1 3"];
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const DAY_MS = 86400000;

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

// Our own sentences name commands between backticks; other people's words never pass through here.
function coded(text) { return text.split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part)); }
// A command to copy. Read it may be cut; what is copied is whole.
function commandNode(command, inShort) {
  const state = el("span", { class: "copy", "aria-live": "polite" }, "copy"), code = el("code", {}, inShort || command);
  const button = el("button", { type: "button", class: "command", title: command }, code, state);
  button.addEventListener("click", async () => {
    const isCopied = await navigator.clipboard.writeText(command).then(() => true, () => false);
    state.textContent = isCopied ? "copied" : "copy it by hand";
    // Where a browser does not let the page write to the clipboard, the whole command is there to be marked.
    if (!isCopied) { code.textContent = command; getSelection().selectAllChildren(code); }
    setTimeout(() => { state.textContent = "copy"; }, 2500);
  });
  return button;
}

function swatch(colour, kind) {
  const svg = draw("svg", { width: 14, height: 14, viewBox: "0 0 14 14", "aria-hidden": "true" }), fill = `var(--${colour})`;
  if (kind === "bar") svg.append(draw("rect", { x: 1, y: 1, width: 12, height: 12, rx: 3, fill }));
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
