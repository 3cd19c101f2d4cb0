// All text reaches the page through textContent: nothing that a model or a person wrote is markup.
const data = JSON.parse(document.getElementById("data").textContent);
const ROWS = 12;
const HEAT_WIDTH = 360; // px of the heat maps, which are stretched over the pictures
const ramp = decodeBytes(data.ramp);
const $ = (id) => document.getElementById(id);
const percent = (value, digits = 1) => `${(100 * value).toFixed(digits)} %`;
// A view is {tokens: [start, end]} or {image, coverage, box} or {image, coverage, region}.
let pinned = null; // what a click chose; what the mouse is over is shown before it

function decodeBytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/** A grid of values in [0, 1] that were stored in 16 bits each, row after row. */
function decodeGrid(text) {
  const view = new DataView(decodeBytes(text).buffer);
  return Float64Array.from({ length: view.byteLength / 2 }, (_, i) => view.getUint16(2 * i, true) / 65535);
}

function make(tag, className, parent, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);

// -- what tokens and regions have to do with each other ------------------------------------------

/** A token's attention on each cell of a picture, of all it has; null where the picture came later. */
function readMap(token, image) {
  if (token.maps[image] === null) return null;
  token.grids ??= [];
  token.grids[image] ??= decodeGrid(token.maps[image]).map((value) => value * token.peaks[image]);
  return token.grids[image];
}

/** Mean over tokens of their maps on a picture. */
function mergeMaps([start, end], image) {
  const [rows, columns] = data.images[image].grid;
  const merged = new Float64Array(rows * columns);
  for (const token of data.tokens.slice(start, end)) {
    readMap(token, image)?.forEach((value, cell) => { merged[cell] += value / (end - start); });
  }
  return merged;
}

/** Share of each cell that a box (x0, y0, x1, y1 in pixels) covers. */
function coverBox(image, [x0, y0, x1, y1]) {
  const { width, height, grid: [rows, columns] } = data.images[image];
  const overlap = (start, end, cell) => Math.max(0, Math.min(end, cell + 1) - Math.max(start, cell));
  return Float64Array.from({ length: rows * columns }, (_, cell) =>
    overlap((y0 * rows) / height, (y1 * rows) / height, Math.floor(cell / columns)) *
    overlap((x0 * columns) / width, (x1 * columns) / width, cell % columns));
}

/** Tokens by their share of attention inside a region, minus the region's share of the picture. */
function rankTokens({ image, coverage }) {
  const expected = sum(coverage) / coverage.length;
  const ranked = [];
  data.tokens.forEach((token, index) => {
    const map = readMap(token, image), total = map ? sum(map) : 0;
    if (total > 0) {
      const share = map.reduce((part, value, cell) => part + value * coverage[cell], 0) / total;
      ranked.push({ index, share, excess: share - expected });
    }
  });
  return { expected, ranked: ranked.sort((a, b) => b.excess - a.excess) };
}

// -- showing -------------------------------------------------------------------------------------

function show(view) {
  data.tokens.forEach(({ element }) => {
    element.classList.remove("chosen", "strong");
    element.style.removeProperty("--tint");
  });
  data.images.forEach(({ frame, canvas, mask, box }) => {
    frame.classList.remove("looking");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    mask.style.visibility = box.style.visibility = "hidden";
  });
  document.querySelectorAll(".chip").forEach((chip) => {
    chip.setAttribute("aria-pressed", String(Boolean(view?.region) && chip === view.region.element));
  });
  $("panel").replaceChildren();
  if (!view) showHint();
  else if (view.tokens) showTokens(view.tokens);
  else showRegion(view);
}

function pin(view) {
  pinned = view;
  show(view);
}

function showHint() {
  make("p", "soft", $("panel"), "Choose a word to see where it looks (with Shift: up to there). Drag a box " +
    "over a picture, or choose a cell of it or a phrase, to see which words look there.");
}

function showTokens([start, end]) {
  const tokens = data.tokens.slice(start, end);
  tokens.forEach(({ element }) => element.classList.add("chosen"));
  const shares = data.images.map((_, image) => sum(tokens.map((token) => token.weights[image])) / tokens.length);
  const line = make("p", "", $("panel"));
  make("span", "word", line, tokens.map((token) => token.label).join("").trim() || "·");
  const parts = shares.map((share, image) =>
    `${percent(share, 0)}${image ? "" : " of its attention is"} on ${data.images[image].name}`);
  make("span", "soft", line, ` (${tokens[0].role}): ${parts.join(", ")}`);
  data.images.forEach((_, image) => {
    if (shares[image] > 0) drawHeat(image, mergeMaps([start, end], image));
  });
  const strongest = shares.indexOf(Math.max(...shares));
  if (shares[strongest] > 0) showLegend(mergeMaps([start, end], strongest));
}

function drawHeat(image, map) {
  const { grid: [rows, columns], canvas, frame } = data.images[image];
  const low = Math.min(...map), scale = 1 / Math.max(Math.max(...map) - low, 1e-12);
  const pen = canvas.getContext("2d"), pixels = pen.createImageData(canvas.width, canvas.height);
  const across = placePixels(canvas.width, columns), down = placePixels(canvas.height, rows);
  let at = 0;
  for (const [top, bottom, v] of down) {
    for (const [left, right, u] of across) {
      const upper = map[top * columns + left] * (1 - u) + map[top * columns + right] * u;
      const lower = map[bottom * columns + left] * (1 - u) + map[bottom * columns + right] * u;
      const strength = (upper * (1 - v) + lower * v - low) * scale;
      const color = 3 * Math.round(255 * strength);
      for (let channel = 0; channel < 3; channel++) pixels.data[at++] = ramp[color + channel];
      pixels.data[at++] = 50 + 165 * strength;
    }
  }
  pen.putImageData(pixels, 0, 0);
  frame.classList.add("looking");
}

/** Of each pixel of a line the two cells whose values it blends, and how much it has of the second. */
function placePixels(length, cells) {
  return Array.from({ length }, (_, pixel) => {
    const place = ((pixel + 0.5) * cells) / length;
    if ($("cells").checked) return [Math.floor(place), Math.floor(place), 0];
    const between = Math.min(cells - 1, Math.max(0, place - 0.5)), first = Math.floor(between);
    return [first, Math.min(cells - 1, first + 1), between - first];
  });
}

function showLegend(map) {
  const legend = make("div", "legend", $("panel"));
  make("span", "", legend, `weakest cell ${percent(Math.min(...map), 2)}`);
  const bar = make("canvas", "", legend);
  [bar.width, bar.height] = [256, 1];
  const pixels = new ImageData(256, 1);
  for (let i = 0; i < 256; i++) pixels.data.set([...ramp.slice(3 * i, 3 * i + 3), 255], 4 * i);
  bar.getContext("2d").putImageData(pixels, 0, 0);
  make("span", "", legend, `strongest ${percent(Math.max(...map), 2)}`);
}

function showRegion(view) {
  const { mask, box, width, height } = data.images[view.image];
  if (view.region) {
    mask.src = view.region.overlay;
    mask.style.visibility = "visible";
  } else {
    const [x0, y0, x1, y1] = view.box;
    Object.assign(box.style, {
      left: percent(x0 / width, 3).replace(" ", ""), width: percent((x1 - x0) / width, 3).replace(" ", ""),
      top: percent(y0 / height, 3).replace(" ", ""), height: percent((y1 - y0) / height, 3).replace(" ", ""),
      visibility: "visible",
    });
  }
  const { expected, ranked } = rankTokens(view);
  const greatest = Math.max(...ranked.map(({ excess }) => Math.abs(excess)), 1e-9);
  ranked.forEach(({ index, excess }) => {
    if (excess > 0) data.tokens[index].element.style.setProperty("--tint", (excess / greatest).toFixed(3));
    data.tokens[index].element.classList.toggle("strong", excess > greatest / 2);
  });
  const line = make("p", "", $("panel"));
  make("span", "word", line, "Words that look here");
  make("span", "soft", line, `: share of their attention inside, minus the ${percent(expected)} that the region is of ${data.images[view.image].name}`);
  const list = make("ol", "", $("panel"));
  ranked.slice(0, ROWS).forEach((row) => makeRow(list, row, greatest));
}

function makeRow(list, { index, share, excess }, greatest) {
  const token = data.tokens[index];
  const near = (first, last) => data.tokens.slice(Math.max(0, first), last)
    .filter((other) => other.turn === token.turn && other.role === token.role)
    .map((other) => other.label).join("");
  const button = make("button", "rank", make("li", "", list));
  const context = make("span", "context", button, near(index - 2, index));
  make("b", "", context, token.label.trim() ? token.label : "·");
  context.append(near(index + 1, index + 3));
  const bar = make("span", excess > 0 ? "bar" : "bar below", button);
  bar.style.width = `${(100 * Math.abs(excess)) / greatest}%`;
  make("span", "figure", button, `${excess > 0 ? "+" : ""}${percent(excess)}`);
  button.title = `${percent(share)} of its attention on this picture lies inside`;
  button.dataset.index = index;
  button.addEventListener("click", () => pin({ tokens: [index, index + 1] }));
}

// -- pictures ------------------------------------------------------------------------------------

function makePicture(item, image) {
  const figure = make("figure", "", $("pictures"));
  figure.style.setProperty("--ratio", item.width / item.height);
  item.frame = make("div", "frame", figure);
  const picture = make("img", "picture", item.frame);
  [picture.src, picture.alt, picture.draggable] = [item.source, item.name, false];
  item.canvas = make("canvas", "heat", item.frame);
  [item.canvas.width, item.canvas.height] = [HEAT_WIDTH, Math.max(1, Math.round((HEAT_WIDTH * item.height) / item.width))];
  item.mask = make("img", "mask", item.frame);
  item.mask.alt = "";
  item.box = make("div", "box", item.frame);
  if (data.images.length > 1) make("figcaption", "", figure, item.name);
  letDraw(item, image);
}

/** A drag chooses a box, a click the cell under it; so do arrow keys, which with Shift size it. */
function letDraw(item, image) {
  let start = null, dragged = false;
  const locate = (event) => locateOn(item, item.frame.getBoundingClientRect(), event);
  const look = (box) => ({ image, box, coverage: coverBox(image, box) });
  item.frame.tabIndex = 0;
  item.frame.setAttribute("role", "application");
  item.frame.setAttribute("aria-label", `${item.name}: arrow keys move a box, with Shift they size it; the words that look there are listed`);
  item.frame.addEventListener("keydown", (event) => {
    const box = moveBox(item, pinned?.image === image ? pinned.box : null, event);
    if (!box) return;
    pin(look(box));
    event.preventDefault();
  });
  item.frame.addEventListener("pointerdown", (event) => {
    item.frame.setPointerCapture(event.pointerId);
    [start, dragged] = [locate(event), false];
  });
  item.frame.addEventListener("pointermove", (event) => {
    if (!start) return;
    const box = spanBox(start, locate(event)), scale = item.frame.clientWidth / item.width;
    dragged ||= Math.max(box[2] - box[0], box[3] - box[1]) * scale > 5;
    if (dragged && box[2] > box[0] && box[3] > box[1]) show(look(box));
  });
  item.frame.addEventListener("pointerup", (event) => {
    if (!start) return;
    const box = dragged ? spanBox(start, locate(event)) : findCell(item, start);
    start = null;
    if (box[2] > box[0] && box[3] > box[1]) pin(look(box));
    else show(pinned);
  });
  item.frame.addEventListener("pointercancel", () => { start = null; show(pinned); });
}

function findCell({ width, height, grid: [rows, columns] }, [x, y]) {
  const column = Math.min(columns - 1, Math.floor((x * columns) / width));
  const row = Math.min(rows - 1, Math.floor((y * rows) / height));
  return [(column * width) / columns, (row * height) / rows, ((column + 1) * width) / columns, ((row + 1) * height) / rows];
}

// -- the conversation ----------------------------------------------------------------------------

function makeTurn(turn, number) {
  const card = make("article", "turn", $("talk"));
  for (const role of ["question", "answer"]) {
    // Spans count characters as Python does: an emoji is one.
    const said = make("p", `said ${role}`, card), letters = Array.from(turn[role]);
    let shown = 0;
    data.tokens.forEach((token, index) => {
      if (token.turn !== number || token.role !== role) return;
      const [start, end] = token.span;
      said.append(letters.slice(shown, start).join(""));
      token.label = letters.slice(Math.max(shown, start), end).join("");
      makeToken(said, token, index);
      shown = Math.max(shown, end);
    });
    said.append(letters.slice(shown).join(""));
  }
  if (data.notice) make("p", "notice", card, data.notice);
  makeChips(card, data.regions.filter((region) => region.turn === number));
}

function makeToken(parent, token, index) {
  const blank = token.label.trim() ? token.label.match(/^\s*/)[0] : "";
  parent.append(blank); // stays outside of the highlight
  token.element = make("span", "token", parent, token.label.slice(blank.length));
  token.element.dataset.index = index;
  token.element.tabIndex = index === (data.opened?.[0] ?? 0) ? 0 : -1;
  token.element.setAttribute("role", "button");
  if (!token.element.textContent.trim()) token.element.setAttribute("aria-label", "blank");
}

function makeChips(parent, regions) {
  if (!regions.length) return;
  const chips = make("div", "chips", parent);
  regions.forEach((region) => {
    region.coverage = decodeGrid(region.coverage);
    const view = { image: region.image, coverage: region.coverage, region };
    region.element = make("button", "chip", chips);
    make("i", "", region.element).style.background = region.color;
    make("span", "", region.element, region.label);
    make("small", "", region.element, region.score.toFixed(2));
    region.element.title = "which words look at this mask? (the number is its score)";
    region.element.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(view); });
    region.element.addEventListener("pointerleave", () => show(pinned));
    region.element.addEventListener("click", () => pin(pinned?.region === region ? null : view));
  });
}

function listenToTokens() {
  const talk = $("talk");
  const find = (event) => event.target.closest?.(".token");
  const choose = (element, extend) => {
    const index = Number(element.dataset.index);
    const [start, end] = pinned?.tokens ?? [index, index + 1];
    const same = (a, b) => data.tokens[a].turn === data.tokens[b].turn && data.tokens[a].role === data.tokens[b].role;
    if (extend && same(start, index)) pin({ tokens: [Math.min(start, index), Math.max(end, index + 1)] });
    else if (!extend && start === index && end === index + 1 && pinned?.tokens) pin(null);
    else pin({ tokens: [index, index + 1] });
  };
  talk.addEventListener("pointerover", (event) => {
    const element = find(event), index = Number(element?.dataset.index);
    if (event.pointerType === "mouse" && element) show({ tokens: [index, index + 1] });
  });
  talk.addEventListener("pointerout", (event) => { if (find(event)) show(pinned); });
  talk.addEventListener("click", (event) => { if (find(event)) choose(find(event), event.shiftKey); });
  talk.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
  talk.addEventListener("keydown", (event) => {
    const element = find(event), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = element && data.tokens[Number(element.dataset.index) + step]?.element;
    if (next) {
      element.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      pin({ tokens: [Number(next.dataset.index), Number(next.dataset.index) + 1] });
    } else if (element && (event.key === "Enter" || event.key === " ")) {
      choose(element, event.shiftKey);
    } else {
      return;
    }
    event.preventDefault();
  });
}

data.images.forEach(makePicture);
$("pictures").classList.toggle("several", data.images.length > 1);
data.turns.forEach(makeTurn);
makeChips($("talk"), data.regions.filter((region) => region.turn === null));
$("footer").textContent = data.note;
$("cells").addEventListener("change", () => show(pinned));
document.addEventListener("keydown", (event) => { if (event.key === "Escape") pin(null); });
listenToTokens();
pin(data.opened && { tokens: data.opened });
if (pinned) data.tokens[pinned.tokens[0]].element.scrollIntoView({ block: "nearest" });
