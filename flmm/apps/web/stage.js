// The picture and what lies on it: tints of all masks, one phrase in the spotlight, a heat map, a
// box. At most one of spotlight and heat map is seen; without them the tints are.

const samePlace = (one, other) => !!one && !!other && one[0] === other[0] && one[1] === other[1];

function showPicture() {
  const picture = state.picture;
  $(".empty").hidden = true;
  $(".canvas").hidden = $(".bar").hidden = false;
  $(".photo").src = picture.url;
  $(".photo").alt = picture.name;
  $(".frame").style.setProperty("--ratio", picture.width / picture.height);
  for (const thumb of document.querySelectorAll(".thumb")) {
    thumb.setAttribute("aria-pressed", thumb.title === picture.name);
  }
  paintStage();
}

// Which turn's masks are seen at rest: the one that is pointed at, else the last.
function findShownTurn() {
  const place = state.lit || state.pinned;
  return place ? place[0] : state.turns.length - 1;
}

function paintStage() {
  const place = state.lit || state.pinned;
  const phrase = place && state.turns[place[0]]?.phrases[place[1]];
  const isToken = state.look?.kind === "token" && !phrase;
  const isRegion = state.look?.kind === "region" && !phrase;
  paintTints(isToken || isRegion || phrase ? null : state.turns[findShownTurn()]);
  paintImage($(".spot"), phrase ? phrase.spotlight : "");
  paintImage($(".heat"), isToken ? state.look.layers[state.layer] : "");
  const box = state.drawn ?? (isRegion ? state.look.box : null);
  $(".box").hidden = !box;
  if (box) placeBox(box);
}

// A layer that leaves keeps its picture, so that it fades.
function paintImage(image, url) {
  if (url) image.src = url;
  image.classList.toggle("on", !!url);
}

function paintTints(turn) {
  const tints = $(".tints");
  tints.classList.toggle("on", !!turn);
  if (!turn || tints.turn === turn) return;
  tints.turn = turn;
  tints.replaceChildren(...turn.phrases.map((phrase) => {
    const image = make("img");
    image.src = phrase.tint;
    image.alt = "";
    image.draggable = false;
    return image;
  }));
}

function light(place) {
  if (samePlace(state.lit, place) || (!state.lit && !place)) return;
  state.lit = place;
  paintStage();
  paintWords();
}

function pin(place) {
  state.pinned = samePlace(state.pinned, place) ? null : place;
  state.lit = null;
  if (state.pinned) clearLook();
  paintStage();
  paintWords();
}

function clearLook() {
  state.look = null;
  paintStage();
  paintWords();
  paintFinding();
}

// -- what was found --------------------------------------------------------------------------

function paintFinding() {
  const finding = $(".finding");
  finding.replaceChildren();
  if (state.drawn) {
    const [x0, y0, x1, y1] = state.drawn.map(Math.round);
    const size = `${x1 - x0} × ${y1 - y0} pixels at ${x0}, ${y0}`;
    finding.append(make("p", "hint", `Box of ${size}: Enter finds the words that look there.`));
    return;
  }
  if (!state.look) {
    finding.append(make("p", "hint", HINTS[Number(matchMedia("(hover: hover)").matches)]));
    return;
  }
  const head = make("div", "found");
  const close = make("button", "close", "×");
  close.type = "button";
  close.setAttribute("aria-label", "Close");
  close.onclick = clearLook;
  finding.append(head);
  if (state.look.kind === "token") {
    head.append(make("p", "", `Where “${state.look.text}” looks`), makeLayerChoice(), close);
  } else {
    const share = `${(100 * state.look.share).toFixed(0)} % of the picture`;
    head.append(make("p", "", "Words that look here"), make("small", "", share), close);
    finding.append(makeWordList());
  }
}

const HINTS = [
  "Tap a name below an answer to light its mask, tap a word to see where it looks, or draw a box " +
    "on the picture to find the words that look there.",
  "Hover a phrase to light its mask, click a word to see where it looks, or draw a box on the " +
    "picture to find the words that look there.",
];
const LAYERS = { all: "all heads", best: "best heads", mask: "mask" };

function makeLayerChoice() {
  const group = make("div", "segments");
  for (const [name, label] of Object.entries(LAYERS)) {
    const button = make("button", "", label);
    button.type = "button";
    button.dataset.layer = name;
    button.setAttribute("aria-pressed", state.layer === name);
    button.onclick = () => {
      state.layer = name;
      paintStage();
      paintFinding();
    };
    group.append(button);
  }
  return group;
}

function makeWordList() {
  const words = state.look.words;
  if (!words.length) return make("p", "hint", "No word looks here more than by chance.");
  const list = make("ol", "words");
  for (const word of words) {
    const item = make("li");
    item.title = `${word.role}, turn ${word.turn + 1}`;
    item.style.setProperty("--share", word.excess / words[0].excess);
    const points = `+${(100 * word.excess).toFixed(0)}`;
    item.append(make("span", "", word.text), make("i"), make("b", "", points));
    list.append(item);
  }
  return list;
}

// -- the box ---------------------------------------------------------------------------------

function placeBox([x0, y0, x1, y1]) {
  const { width, height } = state.picture;
  Object.assign($(".box").style, {
    left: `${(100 * x0) / width}%`,
    top: `${(100 * y0) / height}%`,
    width: `${(100 * (x1 - x0)) / width}%`,
    height: `${(100 * (y1 - y0)) / height}%`,
  });
}

function findWords(box) {
  const smallest = 0.01 * Math.max(state.picture.width, state.picture.height);
  state.pinned = null;
  if (box[2] - box[0] < smallest || box[3] - box[1] < smallest) {
    clearLook();
  } else if (!state.turns.length) {
    clearLook();
    tell("There are no words yet: ask something first.");
  } else {
    send("look_at", { box });
  }
}

function listenForBoxes() {
  const canvas = $(".canvas");
  let start = null;
  const locate = (event) => locateOn(state.picture, canvas.getBoundingClientRect(), event);
  canvas.onpointerdown = (event) => {
    const mayDraw = event.pointerType === "mouse" ? event.button === 0 : state.drawing;
    if (!mayDraw) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    state.drawn = null;
    start = locate(event);
  };
  canvas.onpointermove = (event) => {
    if (!start) return;
    $(".box").hidden = false;
    placeBox(spanBox(start, locate(event)));
  };
  canvas.onpointerup = (event) => {
    if (!start) return;
    const box = spanBox(start, locate(event));
    start = null;
    setDrawing(false);
    findWords(box);
  };
  canvas.onpointercancel = () => {
    start = null;
    paintStage();
  };
  canvas.onkeydown = (event) => {
    const moved = moveBox(state.picture, state.drawn ?? state.look?.box, event);
    if (moved) {
      state.drawn = moved;
      paintStage();
      paintFinding();
    } else if (event.key === "Enter" && state.drawn) {
      findWords(state.drawn);
    } else {
      return;
    }
    event.preventDefault();
  };
}

function setDrawing(isOn) {
  state.drawing = isOn;
  $(".draw").setAttribute("aria-pressed", isOn);
  $(".canvas").classList.toggle("drawing", isOn);
}
