// Shows the first rows again when it is said that a table is written in another way; no label is chosen meanwhile.
import { call, show } from "./api.js";

const form = document.getElementById("reading");
const place = document.getElementById("first-rows");
const words = document.getElementById("reading-words");
const button = document.getElementById("read-again");
const labels = document.getElementById("label-form");
const asRead = place.innerHTML;
const typed = () => new URLSearchParams(new FormData(form)).toString();
const atFirst = typed();
let asked = null, timer = 0;

async function look() {
  asked?.abort();
  asked = new AbortController();
  const isChanged = typed() !== atFirst;
  labels.inert = isChanged;
  button.classList.toggle("main", isChanged);
  words.textContent = isChanged ? "Looking at the first rows …" : "";
  if (!isChanged) { place.innerHTML = asRead; return; }
  try {
    const html = await call(form.dataset.look, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "text/html" }, signal: asked.signal });
    place.innerHTML = html;
    words.textContent = place.querySelector(".note.bad") ? "It cannot be read like this." : "These are its first rows, read like this; the label comes next.";
  } catch (error) {
    if (error.name === "AbortError") return;
    const note = Object.assign(document.createElement("div"), { className: "note bad" });
    show(note, error);
    place.replaceChildren(note);
    words.textContent = "";
  }
}

form.addEventListener("change", () => { clearTimeout(timer); look(); });
form.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(look, 500); });
form.addEventListener("submit", () => { clearTimeout(timer); asked?.abort(); words.textContent = "All rows are read …"; button.disabled = true; });
window.addEventListener("pageshow", () => { button.disabled = false; });
