// Shows the classes of the column that is chosen, or why it cannot be the label.
import { part, show } from "./api.js";

const form = document.getElementById("label-form");
const question = document.getElementById("question");
const classes = document.getElementById("classes");
const buttons = form.querySelectorAll("[data-start]");

function allow() {
  const refused = classes.querySelector(".note.bad") || !form.querySelector("[name=label]:checked");
  for (const button of buttons) button.disabled = Boolean(refused);
}

async function choose(radio) {
  for (const row of form.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  radio.closest("tr").classList.add("chosen");
  let html = "", failure = null;
  try {
    html = await part(`/new/${form.dataset.upload}/columns/${radio.dataset.column}`);
  } catch (error) { failure = error; }
  if (!radio.checked) return;
  classes.innerHTML = html;
  question.replaceChildren(...classes.querySelectorAll("fieldset.choice"));  // it stands above the buttons
  if (failure) {
    const note = Object.assign(document.createElement("div"), { className: "note bad" });
    show(note, failure);
    classes.replaceChildren(note);
  }
  allow();
}

form.addEventListener("change", (event) => { if (event.target.name === "label") choose(event.target); });
allow();
