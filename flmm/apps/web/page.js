// Wiring: what the visitor does, what the server answers.

function buildShelf(samples) {
  samples.forEach((sample, index) => {
    const thumb = make("button", "thumb");
    thumb.type = "button";
    thumb.title = sample.name;
    thumb.setAttribute("aria-label", `Sample picture ${index + 1}`);
    thumb.style.backgroundImage = `url(${sample.url})`;
    thumb.onclick = () => send("open_sample", { index });
    $(".shelf").append(thumb);
  });
}

function upload(file) {
  if (!file) return;
  if (file.size > state.bounds.upload_bytes) {
    const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
    const limit = `this page takes up to ${mib(state.bounds.upload_bytes)} MiB`;
    tell(`${file.name} has ${mib(file.size)} MiB and ${limit}: choose a smaller file.`, "error");
    return;
  }
  const reader = new FileReader();
  reader.onerror = () => tell(`${file.name} cannot be read: choose another file.`, "error");
  reader.onload = () => {
    const data = String(reader.result).split(",")[1] ?? "";
    send("open_upload", { name: file.name, data });
  };
  reader.readAsDataURL(file);
}

function download({ name, data }) {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([bytes]));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function listenToVisitor() {
  $(".upload input").onchange = (event) => {
    upload(event.target.files[0]);
    event.target.value = ""; // so that the same file can be chosen again
  };
  const frame = $(".frame");
  frame.ondragover = (event) => {
    event.preventDefault();
    frame.classList.add("dropping");
  };
  frame.ondragleave = () => frame.classList.remove("dropping");
  frame.ondrop = (event) => {
    event.preventDefault();
    frame.classList.remove("dropping");
    upload(event.dataTransfer.files[0]);
  };
  $(".composer").onsubmit = (event) => {
    event.preventDefault();
    ask();
  };
  $("textarea").onkeydown = (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    ask();
  };
  $("textarea").oninput = fitField;
  $(".stop").onclick = () => post("stop").catch(() => tell(LOST, "error"));
  $(".draw").onclick = () => setDrawing(!state.drawing);
  $(".message button").onclick = () => tell("");
  for (const button of document.querySelectorAll(".save")) {
    button.onclick = () => send("save", { kind: button.dataset.kind });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    state.pinned = state.drawn = null;
    clearLook();
  });
  listenForKeys();
  listenForBoxes();
}

// What the server changes, in the order in which it is shown.
const SHOWN = {
  version: (version) => { state.version = version; },
  picture: (picture) => {
    Object.assign(state, { picture, turns: [], look: null, lit: null, pinned: null, drawn: null });
    renderTurns();
    showPicture();
    paintFinding();
  },
  turns: (turns) => {
    if (turns.picture !== state.picture?.id) return; // of the picture before this one
    Object.assign(state, { turns: turns.items, look: null, lit: null, pinned: null });
    renderTurns();
    paintStage();
    paintFinding();
  },
  draft: (draft) => showDraft(draft),
  look: (look) => {
    state.look = look.kind ? look : null;
    if (state.look) {
      state.lit = state.pinned = state.drawn = null;
      $(".flmm").classList.add("looked"); // knows the gestures
    }
    paintStage();
    paintWords();
    paintFinding();
  },
  message: (message) => tell(message.text, message.kind),
  saved: (file) => download(file),
};

function apply(update) {
  for (const [name, show] of Object.entries(SHOWN)) {
    if (name in update) show(update[name]);
  }
  showBusy();
}

async function begin() {
  const { samples, model, notice, start, choices, bounds } = await (await fetch("start")).json();
  Object.assign(state, { notice, bounds });
  buildShelf(samples);
  $(".model").textContent = model;
  $("textarea").value = start.question;
  $("textarea").maxLength = bounds.question_characters;
  $(".begin").value = start.begin;
  for (const [name, label] of choices) {
    const option = make("option", "", label);
    option.value = name;
    $(".select").append(option);
  }
  $(".select").value = start.select;
  listenToVisitor();
  fitField();
  await follow(); // what this tab showed before it was loaded again
}

paintFinding();
showBusy();
begin();
window.addEventListener("pagehide", () => post("leave", {}, { keepalive: true }).catch(() => {}));
window.addEventListener("pageshow", (event) => { if (event.persisted) follow(); });
