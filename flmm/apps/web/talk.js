// Questions and answers. A text is cut wherever a token or a phrase begins or ends; each piece
// knows its token (to be clicked) and its phrase (to be hovered). Phrases are numbered, so that
// colour is not all that tells them apart.

function renderTurns() {
  const turns = $(".turns");
  turns.replaceChildren(...state.turns.map(renderTurn));
  if (!state.turns.length) turns.append(make("p", "hint", GREETING));
  paintWords();
  scrollToEnd();
}

const GREETING = "Ask something: every answer stays as the model gives it, and its words point.";

function renderTurn(turn, number) {
  const article = make("article", "turn");
  const [question, answer] = ["question", "answer"].map((role) => make("p", role));
  question.append(...renderText(turn, number, "question", turn.question));
  answer.append(...renderText(turn, number, "answer", turn.text));
  if (!turn.text) answer.append(make("em", "", "(the model says nothing)"));
  for (const text of [question, answer]) {
    text.setAttribute("role", "group");
    text.setAttribute("aria-label", `${text.className}; arrow keys go from word to word`);
    text.querySelector(".token")?.setAttribute("tabindex", 0);
  }
  article.append(question, answer);
  if (state.notice) article.append(make("p", "notice", state.notice));
  article.append(renderChips(turn, number));
  if (turn.note) article.append(make("p", "note", turn.note));
  if (number === state.turns.length - 1) article.append(renderUndo());
  return article;
}

function renderUndo() {
  const undo = make("button", "undo", "Take back");
  undo.type = "button";
  undo.title = "Forget this question and its answer";
  undo.onclick = () => send("undo");
  return undo;
}

function renderText(turn, number, role, text) {
  const letters = Array.from(text); // spans count code points
  const tokens = turn.tokens.map((token, index) => [...token, index]);
  const own = tokens.filter((token) => token[0] === role);
  const phrases = turn.phrases
    .map((phrase, index) => ({ ...phrase, index }))
    .filter((phrase) => phrase.role === role);
  const cuts = new Set([0, letters.length]);
  own.forEach(([, start, end]) => cuts.add(start).add(end));
  phrases.forEach(({ span }) => cuts.add(span[0]).add(span[1]));
  letters.forEach((letter, at) => {
    if (/\s/.test(letter)) cuts.add(at).add(at + 1);
  });
  const places = [...cuts].sort((one, other) => one - other);
  return places.slice(0, -1).map((start, at) => {
    const covers = (from, to) => from <= start && start < to;
    const piece = make("span", "", letters.slice(start, places[at + 1]).join(""));
    const token = own.find(([, from, to]) => covers(from, to));
    if (token && piece.textContent.trim()) markToken(piece, number, token[3]);
    // Of nested phrases the innermost.
    const [phrase] = phrases
      .filter(({ span }) => covers(...span))
      .sort((one, other) => one.span[1] - one.span[0] - (other.span[1] - other.span[0]));
    if (phrase) markPhrase(piece, number, phrase.index, phrase.color);
    if (phrase?.span[1] === places[at + 1]) piece.dataset.number = phrase.index + 1;
    return piece;
  });
}

function markToken(piece, turn, token) {
  piece.classList.add("token");
  piece.dataset.turn = turn;
  piece.dataset.token = token;
  piece.tabIndex = -1;
  piece.setAttribute("role", "button");
  piece.onclick = () => {
    const look = state.look;
    if (look?.kind === "token" && look.turn === turn && look.token === token) return clearLook();
    state.pinned = null;
    send("look_from", { turn, token });
  };
}

function markPhrase(node, turn, phrase, color) {
  node.classList.add("phrase");
  node.dataset.place = `${turn}.${phrase}`;
  node.style.setProperty("--color", color);
  node.onpointerenter = (event) => {
    if (event.pointerType === "mouse") light([turn, phrase]);
  };
  node.onpointerleave = () => light(null);
  node.onfocus = () => node.matches(":focus-visible") && light([turn, phrase]);
  node.onblur = () => light(null);
}

// The words of a text are one stop of the Tab key: arrows go from word to word, Enter chooses.
function listenForKeys() {
  $(".turns").onkeydown = (event) => {
    const word = event.target.closest(".token");
    const words = [...(word?.parentElement.querySelectorAll(".token") ?? [])];
    const at = words.indexOf(word);
    const places = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: words.length - 1 };
    const next = words[places[event.key]];
    if (word && (event.key === "Enter" || event.key === " ")) word.click();
    else if (!next) return;
    event.preventDefault();
    if (!next) return;
    word.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  };
}

function renderChips(turn, number) {
  const chips = make("div", "chips");
  turn.phrases.forEach((phrase, index) => {
    const chip = make("button", "chip");
    chip.type = "button";
    chip.append(make("i"), make("b", "", index + 1), make("span", "", phrase.text));
    chip.append(make("small", "", phrase.found ? phrase.score.toFixed(2) : "not found"));
    chip.title = phrase.found ? "Mean probability inside the mask" : "The mask is empty";
    markPhrase(chip, number, index, phrase.color);
    chip.onclick = () => pin([number, index]);
    chips.append(chip);
  });
  return chips;
}

// Marks on the words: lit phrase, token that is looked from, how much each looks into the box.
function paintWords() {
  const place = state.lit || state.pinned;
  for (const node of document.querySelectorAll(".phrase")) {
    node.classList.toggle("lit", !!place && node.dataset.place === place.join("."));
    if (node.matches(".chip")) {
      const isPinned = !!state.pinned && node.dataset.place === state.pinned.join(".");
      node.setAttribute("aria-pressed", isPinned);
    }
  }
  const look = state.look;
  $(".turns").classList.toggle("ranked", look?.kind === "region");
  const highest = look?.kind === "region" ? Math.max(0.02, ...look.excess.flat()) : 1;
  for (const node of document.querySelectorAll(".token")) {
    const turn = Number(node.dataset.turn);
    const token = Number(node.dataset.token);
    const isChosen = look?.kind === "token" && look.turn === turn && look.token === token;
    node.classList.toggle("chosen", isChosen);
    node.setAttribute("aria-pressed", isChosen);
    const excess = look?.kind === "region" ? look.excess[turn]?.[token] ?? 0 : 0;
    node.style.setProperty("--looks", Math.max(0, excess / highest).toFixed(3));
    node.classList.toggle("strong", excess > highest / 2);
  }
}

function showDraft(draft) {
  const before = $(".draft");
  if (!draft.question || draft.picture !== state.picture?.id) {
    before?.remove();
    return;
  }
  const article = make("article", "turn draft");
  article.append(make("p", "question", draft.question));
  article.append(make("p", draft.text ? "answer" : "answer waiting", draft.text));
  if (before) before.replaceWith(article);
  else $(".turns").append(article);
  $(".turns > .hint")?.remove();
  scrollToEnd();
}

// A question that got no answer goes back into the field.
function endAnswer(said, question) {
  $(".draft")?.remove();
  if (state.turns.length > said) return;
  if (!$("textarea").value) $("textarea").value = question;
  if (!$(".turns").children.length) renderTurns();
  fitField();
}

function scrollToEnd() {
  const turns = $(".turns");
  const last = turns.lastElementChild;
  // An answer is read from its beginning, one that is being written at its end.
  const isRead = last?.matches(".turn:not(.draft)");
  turns.scrollTop = isRead ? last.offsetTop - turns.offsetTop : turns.scrollHeight;
  if (turns.scrollHeight <= turns.clientHeight && state.turns.length) {
    last?.scrollIntoView({ block: "nearest" }); // where the whole page scrolls
  }
}

function ask() {
  const question = $("textarea").value.trim();
  if (!question || !state.picture || state.writing || isPending("ask")) return;
  state.pinned = state.lit = null;
  clearLook();
  $("textarea").value = "";
  fitField();
  showDraft({ picture: state.picture.id, question, text: "" });
  send("ask", { question, begin: $(".begin").value.trim(), select: $(".select").value });
}

function fitField() {
  const field = $("textarea");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight, 160)}px`;
}
