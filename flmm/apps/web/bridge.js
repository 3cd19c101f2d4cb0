// The page's script is the explanation's box.js, then bridge.js, stage.js, talk.js and page.js.
//
// Everything that a visitor or the model wrote goes into the page as text, never as markup.

const $ = (selector) => document.querySelector(selector);

const state = {
  key: readKey(),
  version: 0, // of what is shown
  pending: [], // actions that are under way
  writing: false, // whether an answer is being written, also one of before this page was loaded
  picture: null,
  turns: [],
  look: null, // what was found last: a token's heat map, or a region's words
  layer: "all", // which of the token's layers is shown
  lit: null, // [turn, phrase] under the pointer
  pinned: null, // [turn, phrase] that stays lit
  drawing: false, // whether a finger draws (a mouse always does)
  drawn: null, // a box that the keys draw and nobody has asked about yet
};
const LOST = "The connection is lost. The page tries again; an answer goes on meanwhile.";
const AGAIN = "The connection was lost for a moment: try that again.";
const GONE = "The conversation is no longer here: choose a picture to begin.";
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));

function make(tag, className = "", text = "") {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

// What the server knows this tab by; kept when the page is loaded again.
function readKey() {
  const name = "flmm:visitor";
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  let key = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    key = sessionStorage.getItem(name) ?? key;
    sessionStorage.setItem(name, key);
  } catch {
    // Without storage a page that is loaded again begins anew.
  }
  return key;
}

class Refusal extends Error {}

// Raises a Refusal where the server says no, another error where it cannot be reached.
async function post(action, request = {}, options = {}) {
  const headers = { "content-type": "application/json", "x-flmm-visitor": state.key };
  const body = JSON.stringify(request);
  const response = await fetch(action, { method: "POST", headers, body, ...options });
  if (!response.ok) throw new Refusal(await response.text());
  return response.json();
}

async function send(action, request) {
  const said = state.turns.length;
  state.pending.push(action);
  showBusy();
  try {
    apply(await post(action, request));
    if (action === "ask") await follow();
  } catch (error) {
    if (!(error instanceof Refusal)) await follow(error);
    tell(error instanceof Refusal ? error.message : AGAIN, "error");
    if (action === "ask" && state.turns.length > said) tell("");
  }
  state.pending.splice(state.pending.indexOf(action), 1);
  if (action === "ask") endAnswer(said, request.question);
  showBusy();
}

// Show what is new until nothing is being written; a connection that is lost is waited for.
async function follow(fault = null) {
  for (;;) {
    try {
      if (fault) tell(fault instanceof Refusal ? fault.message : LOST, "error");
      const options = { signal: AbortSignal.timeout(20000) };
      const news = await post("read", { since: state.version }, options);
      if (fault) tell("");
      fault = null;
      if (news.gone && state.picture) tell(GONE, "error");
      state.writing = news.writing;
      apply(news);
      if (!news.writing) return;
    } catch (error) {
      fault = error;
      await pause(1);
    }
  }
}

function isPending(...actions) {
  return state.pending.some((action) => actions.includes(action));
}

function showBusy() {
  const answering = state.writing || isPending("ask");
  const opening = isPending("open_sample", "open_upload");
  $(".flmm").classList.toggle("busy", answering || state.pending.length > 0);
  $(".flmm").classList.toggle("answering", answering);
  $(".stop").hidden = !answering;
  $(".go").hidden = answering;
  $(".go").disabled = !state.picture || opening;
  const hasMasks = state.turns.some((turn) => turn.phrases.length > 0);
  for (const button of document.querySelectorAll(".save")) button.disabled = !hasMasks || answering;
  $(".wait").hidden = !opening;
  $(".wait").textContent = opening ? "Reading the picture" : "";
}

function tell(text, kind = "note") {
  $(".message").hidden = !text;
  $(".message").className = `message ${kind}`;
  $(".message span").textContent = text;
}
