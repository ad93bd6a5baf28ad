const MOST_ZOOM = 60;
const ZOOM_STEP = 1.6;
// A wheel that scrolls the page goes on scrolling it when the map comes under the pointer.
const SCROLL_MS = 250;
const DRAG_PX = 5;

// What part of the map is seen. Buttons, the wheel, two fingers, dragging and keys change it; `changed` draws it.
function mapView(svg, buttons, level, changed) {
  let scale = 1, moved = { x: 0, y: 0 }, frame = null, scrolledAt = -Infinity, dragged = false, waits = false;
  const pointers = new Map();
  const button = (name, sign, act) => {
    const node = el("button", { type: "button", "aria-label": name, title: name }, sign);
    node.addEventListener("click", act);
    buttons.append(node);
    return node;
  };
  button("Zoom in", "+", () => about(middle(), ZOOM_STEP));
  const out = button("Zoom out", "−", () => about(middle(), 1 / ZOOM_STEP));
  const reset = button("Reset the zoom", "reset", () => whole());
  addEventListener("scroll", () => { scrolledAt = performance.now(); }, { passive: true });
  showLevel();

  svg.addEventListener("wheel", (event) => {
    if (performance.now() - scrolledAt < SCROLL_MS && !event.ctrlKey) return;
    const lines = event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1;
    const factor = Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002));
    // Seen whole, it lets the page scroll on.
    if (factor < 1 && scale === 1) return event.ctrlKey && event.preventDefault();
    event.preventDefault();
    about(inSvg(event), factor);
  }, { passive: false });
  svg.addEventListener("touchstart", (event) => event.touches.length > 1 && event.preventDefault(), { passive: false });
  svg.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && event.button !== 0) return;
    if (!pointers.size) dragged = false;
    pointers.set(event.pointerId, { ...inSvg(event), from: inSvg(event) });
  });
  svg.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = inSvg(event), others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, one]) => one);
    if (others.length === 1) pinch(before, now, others[0]);
    else if (scale > 1 && !others.length && (dragged || Math.hypot(now.x - before.from.x, now.y - before.from.y) > DRAG_PX)) {
      if (!dragged) svg.setPointerCapture(event.pointerId);
      dragged = true;
      moveBy(now.x - before.x, now.y - before.y);
    }
    pointers.set(event.pointerId, { ...now, from: before.from });
  });
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, (event) => pointers.delete(event.pointerId));
  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowRight: [-60, 0], ArrowLeft: [60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] }[event.shiftKey ? event.key : ""];
    const act = { "+": () => about(middle(), ZOOM_STEP), "=": () => about(middle(), ZOOM_STEP), "-": () => about(middle(), 1 / ZOOM_STEP), 0: whole }[event.key] || (by && (() => moveBy(...by)));
    if (!act) return;
    event.preventDefault();
    act();
  });

  return {
    at: ({ x, y }) => ({ x: x * scale + moved.x, y: y * scale + moved.y }),
    fit(box) { frame = box; bound(); showLevel(); },
    centre({ x, y }) { moved = { x: middle().x - x * scale, y: middle().y - y * scale }; apply(true); },
    whole,
    isDragged: () => dragged && pointers.size > 0,
    wasDragged: () => dragged,
  };

  function inSvg(event) {
    const box = svg.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }
  function middle() { return { x: (frame.left + frame.right) / 2, y: (frame.top + frame.bottom) / 2 }; }
  function about(point, factor) {
    const next = Math.min(Math.max(scale * factor, 1), MOST_ZOOM), by = next / scale;
    moved = { x: point.x - (point.x - moved.x) * by, y: point.y - (point.y - moved.y) * by };
    scale = next < 1.001 ? 1 : next;
    apply();
  }
  function pinch(before, now, other) {
    dragged = true;
    const was = Math.hypot(before.x - other.x, before.y - other.y), is = Math.hypot(now.x - other.x, now.y - other.y);
    if (was > 0) about({ x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 }, is / was);
    moveBy((now.x - before.x) / 2, (now.y - before.y) / 2);
  }
  function moveBy(x, y) { moved = { x: moved.x + x, y: moved.y + y }; apply(); }
  function whole() { scale = 1; moved = { x: 0, y: 0 }; apply(); }
  // The map always fills its frame.
  function bound() {
    moved.x = Math.min(Math.max(moved.x, frame.right * (1 - scale)), frame.left * (1 - scale));
    moved.y = Math.min(Math.max(moved.y, frame.bottom * (1 - scale)), frame.top * (1 - scale));
  }
  function apply(atOnce) {
    bound();
    showLevel();
    if (atOnce) return changed();
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => { waits = false; changed(); });
  }
  function showLevel() {
    out.disabled = reset.disabled = scale === 1;
    level.textContent = scale === 1 ? "" : `${scale < 10 ? scale.toFixed(1) : Math.round(scale)}×`;
    // One finger scrolls the page until there is something to move.
    svg.classList.toggle("zoomed", scale > 1);
  }
}
