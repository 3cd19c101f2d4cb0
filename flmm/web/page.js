// Wiring: what the visitor does, what the server answers.

function buildShelf() {
  props.samples.forEach((sample, index) => {
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
  if (file.size > props.bounds.upload_bytes) {
    const mib = (bytes) => (bytes / 2 ** 20).toFixed(1);
    const limit = `this page takes up to ${mib(props.bounds.upload_bytes)} MiB`;
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
  $(".stop").onclick = () => trigger("stop_answer", {});
  $(".draw").onclick = () => setDrawing(!state.drawing);
  $(".message button").onclick = () => tell("");
  for (const button of element.querySelectorAll(".save")) {
    button.onclick = () => send("save", { kind: button.dataset.kind });
  }
  element.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    state.pinned = null;
    clearLook();
  });
  listenForBoxes();
}

function listenToServer() {
  watch("picture", () => {
    Object.assign(state, { picture: props.picture, turns: [] });
    state.look = state.lit = state.pinned = null;
    renderTurns();
    showPicture();
    paintFinding();
    showBusy();
  });
  watch("turns", () => {
    if (props.turns.picture !== state.picture?.id) return; // of the picture before this one
    state.turns = props.turns.items;
    state.look = state.lit = state.pinned = null;
    renderTurns();
    paintStage();
    paintFinding();
    showBusy();
  });
  watch("draft", () => showDraft(props.draft));
  watch("look", () => {
    state.look = props.look.kind ? props.look : null;
    if (state.look) {
      state.lit = state.pinned = null;
      $(".flmm").classList.add("looked"); // knows the gestures
    }
    paintStage();
    paintWords();
    paintFinding();
  });
  watch("message", () => tell(props.message.text, props.message.kind));
  watch("saved", () => download(props.saved));
  watch("answered", () => {
    settle(props.answered, true);
    dropDraft();
  });
  watch("served", () => settle(props.served, false));
  window.addEventListener("flmm:failed", () => {
    state.pending.clear();
    dropDraft();
    showBusy();
    tell("The page is too busy or cannot be reached: wait a moment and try again.", "error");
  });
}

buildShelf();
$(".model").textContent = props.model;
$("textarea").value = props.start.question;
$("textarea").maxLength = props.bounds.question_characters;
$(".begin").value = props.start.begin;
for (const [name, label] of props.choices) {
  const option = make("option", "", label);
  option.value = name;
  $(".select").append(option);
}
$(".select").value = props.start.select;
listenToVisitor();
listenToServer();
paintFinding();
showBusy();
requestAnimationFrame(fitField);
