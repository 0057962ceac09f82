// Shows what the columns that are chosen are as labels, or why they cannot be.
import { part, show } from "./api.js";

const form = document.getElementById("label-form");
const question = document.getElementById("question");
const classes = document.getElementById("classes");
const search = document.getElementById("search");
const buttons = form.querySelectorAll("[data-start]");
const findings = document.getElementById("columns-found");
const chosen = () => [...form.querySelectorAll("[name=label]:checked")];
let asked = 0, looked = 0;

function allow() {
  const refused = classes.querySelector(".note.bad") || !chosen().length;
  for (const button of buttons) button.disabled = Boolean(refused);
}

// What good rules leave out beside this label, as a search finds it
async function look() {
  const mine = looked += 1, task = form.querySelector("[name=task]:checked");
  if (!chosen().length || classes.querySelector(".note.bad") || (form.querySelector("[name=task]") && !task)) { findings.replaceChildren(); return; }
  const query = new URLSearchParams([...chosen().map((input) => ["label", input.value]), ...(task ? [["task", task.value]] : [])]);
  findings.textContent = "Looking at the columns …";
  let html = "";
  try {
    html = await part(`/new/${form.dataset.upload}/findings?${query}`);
  } catch { /* the rules say it again */ }
  if (looked === mine) findings.innerHTML = html;
}

async function choose() {
  for (const row of form.querySelectorAll("#columns tbody tr")) row.classList.toggle("chosen", Boolean(row.querySelector(":checked")));
  const query = new URLSearchParams(chosen().map((input) => ["at", input.dataset.column]));
  const mine = asked += 1;
  let html = "", failure = null;
  try {
    html = await part(`/new/${form.dataset.upload}/columns?${query}`);
  } catch (error) { failure = error; }
  if (asked !== mine) return;
  classes.innerHTML = html;
  question.replaceChildren(...classes.querySelectorAll("fieldset.choice"));  // it stands above the buttons
  if (failure) {
    const note = Object.assign(document.createElement("div"), { className: "note bad" });
    show(note, failure);
    classes.replaceChildren(note);
  }
  allow();
  look();
}

form.addEventListener("change", ({ target }) => { if (target.name === "label") choose(); else if (target.name === "task") look(); });
search?.addEventListener("formdata", ({ formData }) => { for (const input of chosen()) formData.append("label", input.value); });
allow();
look();
