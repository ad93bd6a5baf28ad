// Photos that a person should look at, each with the command that acts on it: cards with pictures, or without a list.
const FIRST_CARDS = 6;

function showGalleries() {
  const before = document.getElementById("latency");
  for (const gallery of galleries) {
    const section = el("section", { id: `gallery-${gallery.name}`, class: "wide" });
    before.before(section);
    section.append(el("h2", {}, gallery.title));
    if (!gallery.photos.length) { section.append(el("p", { class: "none" }, ...coded(gallery.none))); continue; }
    section.append(el("p", { class: "caption" }, ...coded(gallery.caption)));
    section.append(cards(gallery.photos), ...gallery.commands.map((command) => commandNode(command)));
  }
}

function cards(photos) {
  const hasPictures = photos.some((photo) => photo.thumbnail);
  const list = el("ol", { class: "cards" }), more = el("button", { type: "button" }, `Show ${number(photos.length - FIRST_CARDS)} more`);
  const show = (some) => list.append(...some.map((photo) => el("li", {}, cardNode(photo, hasPictures))));
  show(photos.slice(0, FIRST_CARDS));
  more.hidden = photos.length <= FIRST_CARDS;
  more.addEventListener("click", () => { show(photos.slice(FIRST_CARDS)); more.hidden = true; list.children[FIRST_CARDS].querySelector("button").focus(); });
  return el("div", {}, list, more);
}

function cardNode(photo, hasPictures) {
  const picture = photo.thumbnail ? el("img", { src: photo.thumbnail, alt: "" }) : el("div", { class: "gone" }, "gone");
  const facts = [
    photo.confidence === null ? "" : `${percent(photo.confidence, 0)} sure`,
    photo.label_confidence === null ? "" : `${percent(photo.label_confidence)} for its label`,
    photo.novelty === null ? "" : `stranger than ${percent(photo.novelty)} of photos`,
  ];
  return el("div", { class: "card" },
    el("div", { class: "photo" }, ...(hasPictures ? [picture] : []), el("div", {}, el("strong", {}, ...whatItIs(photo)), el("bdi", { class: "key" }, photo.key), el("span", {}, facts.filter(Boolean).join("; ")))),
    commandNode(photo.command, photo.command_in_short));
}

function whatItIs({ label, predicted }) {
  if (predicted === null) return [labelNode(label)];
  if (label === null) return ["named ", labelNode(predicted)];
  return label === predicted ? [labelNode(label)] : [labelNode(predicted), el("span", { class: "count" }, " instead of "), labelNode(label)];
}
