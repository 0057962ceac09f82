// Sends rows to a model of a study, and shows the classes and their probabilities.
import { call, show } from "./api.js";
import { count, number } from "./format.js";

const MOST_SHOWN = 200, MOST_CLASSES = 12;
const form = document.getElementById("predict");
const failure = document.getElementById("failure");
const result = document.getElementById("predictions");
const working = document.getElementById("working");
const file = document.getElementById("rows-file");
let last = null;

function cell(row, text, kind = "td", isText = false) {
  const made = document.createElement(kind);
  if (kind === "th") made.scope = "col";
  if (isText) made.className = "t";
  made.textContent = text;
  row.append(made);
}

function inWords(score) {
  const others = Object.entries(score.measures).filter(([name]) => name !== score.metric).map(([name, value]) => `, ${name.replaceAll("_", " ")} ${number(value)}`);
  const leftOut = score.left_out ? `; ${count(score.left_out)} without a label left out` : "";
  const right = score.right === null ? `${count(score.rows)} rows` : `${count(score.right)} of ${count(score.rows)} labels right`;
  const seen = score.fitted_rows ? ` It was fitted to all ${count(score.fitted_rows)} rows of its study: on those it looks better than it is.` : "";
  return `${score.label[0].toUpperCase()}${score.label.slice(1)} ${score.text}: ${right}${others.join("")}${leftOut}.${seen}`;
}

function showResult({ classes, predictions, probabilities, targets, notes, reading_notes: reading, score, score_problem: problem }) {
  const told = document.getElementById("score");
  told.hidden = !score && !problem;
  told.textContent = score ? inWords(score) : problem ? `Not scored: ${problem}` : "";
  const read = document.getElementById("reading-notes");
  read.hidden = !reading.length;
  read.replaceChildren(...reading.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
  const isNoted = notes.some((note) => note);
  // Of many classes only those that some row is most likely to have
  const shown = classes.map((_, index) => index)
    .sort((a, b) => Math.max(...probabilities.map((row) => row[b])) - Math.max(...probabilities.map((row) => row[a])))
    .slice(0, MOST_CLASSES).sort((a, b) => a - b);
  const head = document.createElement("tr");
  cell(head, "Row", "th");
  cell(head, targets.length > 1 ? targets.join(", ") : targets[0] === "prediction" && classes.length ? "Class" : "Prediction", "th", true);
  for (const index of shown) cell(head, classes[index], "th");
  if (isNoted) cell(head, "Note", "th", true);
  document.getElementById("predictions-head").replaceChildren(head);
  document.getElementById("predictions-rows").replaceChildren(...predictions.slice(0, MOST_SHOWN).map((name, at) => {
    const row = document.createElement("tr");
    cell(row, count(at + 1));
    cell(row, name, "td", true);
    for (const index of shown) cell(row, probabilities[at][index].toFixed(3));
    if (isNoted) cell(row, notes[at], "td", true);
    return row;
  }));
  const few = predictions.length > MOST_SHOWN ? `, the first ${MOST_SHOWN} are shown` : "";
  const some = classes.length > shown.length ? `; probabilities of ${shown.length} of ${classes.length} classes` : "";
  document.getElementById("predictions-words").textContent =
    `${count(predictions.length)} row${predictions.length === 1 ? "" : "s"}${few}${some}.`;
  result.hidden = false;
  result.focus();
}

const quoted = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);

document.getElementById("save").addEventListener("click", () => {
  const names = last.targets.length === 1 && last.classes.length ? ["class"] : last.targets;
  const isNoted = last.notes.some((note) => note);
  const lines = [["row", ...names, ...last.classes, ...(isNoted ? ["note on row"] : [])].map(quoted).join(",")];
  last.values.forEach((row, at) => lines.push([at + 1, ...row.map(quoted), ...last.probabilities[at], ...(isNoted ? [quoted(last.notes[at])] : [])].join(",")));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

// How the rows are written, as the address of a request says it
function reading() {
  const said = new URLSearchParams();
  for (const field of form.querySelectorAll("[id^=reading-][name]")) {
    const values = field.name === "missing_values" ? field.value.split(",") : [field.value];
    for (const value of values) if (field.name === "delimiter" ? value : value.trim()) said.append(field.name, field.name === "delimiter" ? value : value.trim());
  }
  return said.size ? `?${said}` : "";
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  failure.hidden = true;
  const rows = file.files.length ? file.files[0] : document.getElementById("rows").value;
  if (!file.files.length && !rows.trim()) {
    show(failure, new Error("Predictions need rows, got none; paste some with the columns' names in the first line."));
    failure.focus();
    return;
  }
  const button = form.querySelector("button");
  button.disabled = true;
  working.textContent = "The model is at work; the first time it takes some seconds …";
  try {
    const rank = document.getElementById("rank").value;
    const path = `/api/v1/studies/${encodeURIComponent(form.dataset.study)}/models/${rank}/predict${reading()}`;
    last = await call(path, { method: "POST", body: rows, headers: { "Content-Type": "text/csv" } });
    showResult(last);
  } catch (error) {
    result.hidden = true;
    show(failure, error);
    failure.focus();
  } finally {
    button.disabled = false;
    working.textContent = "";
  }
});
