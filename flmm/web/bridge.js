// The page's script is bridge.js, stage.js, talk.js and page.js, one after the other in the body of
// one function that Gradio calls with: element, trigger, props, watch.
//
// Everything that a visitor or the model wrote goes into the page as text, never as markup.

const $ = (selector) => element.querySelector(selector);

const state = {
  nextId: 1,
  pending: new Map(), // id of a request that is under way -> its action
  picture: null,
  turns: [],
  look: null, // what was found last: a token's heat map, or a region's words
  layer: "all", // which of the token's layers is shown
  lit: null, // [turn, phrase] under the pointer
  pinned: null, // [turn, phrase] that stays lit
  drawing: false, // whether a finger draws (a mouse always does)
};

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

function send(action, request = {}) {
  const id = state.nextId++;
  state.pending.set(id, action);
  trigger(action, { request: { ...request, id } });
  showBusy();
  return id;
}

// Requests of one kind are served in the order they were sent, answers apart from all others.
function settle(id, isAnswer) {
  for (const [other, action] of [...state.pending]) {
    if (other <= id && (action === "ask") === isAnswer) state.pending.delete(other);
  }
  showBusy();
}

function isPending(...actions) {
  return [...state.pending.values()].some((action) => actions.includes(action));
}

function showBusy() {
  const answering = isPending("ask");
  const opening = isPending("open_sample", "open_upload");
  $(".flmm").classList.toggle("busy", state.pending.size > 0);
  $(".flmm").classList.toggle("answering", answering);
  $(".stop").hidden = !answering;
  $(".go").hidden = answering;
  $(".go").disabled = !state.picture || opening;
  const hasMasks = state.turns.some((turn) => turn.phrases.length > 0);
  for (const button of element.querySelectorAll(".save")) button.disabled = !hasMasks || answering;
  $(".wait").hidden = !opening;
  $(".wait").textContent = opening ? "Reading the picture" : "";
}

function tell(text, kind = "note") {
  $(".message").hidden = !text;
  $(".message").className = `message ${kind}`;
  $(".message span").textContent = text;
}
