// Sends a table as it is read from disk, and shows how far it is.
import { send, show } from "./api.js";
import { duration, size } from "./format.js";

const form = document.getElementById("upload");
const drop = document.getElementById("drop");
const file = document.getElementById("file");
const receiving = document.getElementById("receiving");
const words = document.getElementById("receiving-words");
const bar = document.getElementById("receiving-bar");
const failure = document.getElementById("failure");
const again = document.getElementById("again");
const reading = document.getElementById("reading");
let stop = null, table = null, key = "";

function types(name) {
  if (/\.gz$/i.test(name)) return "application/gzip";
  if (/\.zst$/i.test(name)) return "application/zstd";
  return /\.(csv|tsv|txt)$/i.test(name) ? "text/csv" : "application/octet-stream";
}

// What is said of how the table is written, as parameters
function said() {
  const found = new URLSearchParams();
  for (const field of reading.querySelectorAll("[name]")) {
    const value = field.name === "delimiter" ? field.value : field.value.trim();
    if (!value) continue;
    if (field.name === "header") found.append("header", "false");
    else if (field.name === "missing_values") for (const mark of value.split(",")) { if (mark.trim()) found.append(field.name, mark.trim()); }
    else found.append(field.name, value);
  }
  return found.size ? `?${found}` : "";
}

function fail(error) {
  receiving.hidden = true;
  form.hidden = false;
  show(failure, error);
  if (error.status === 422) reading.open = true;  // it may be written in another way
  again.hidden = !table;
  again.textContent = table ? `Try ${table.name} again` : "";
  failure.focus();
}

async function failedBy(error) {
  if (error.name === "AbortError") return new Error("The upload was stopped; nothing of it is kept.");
  try {
    await table.slice(0, 1).arrayBuffer();
  } catch {
    const name = table.name;
    table = null;
    file.value = "";
    return new Error(`${name} is not as it was when it was chosen; choose it once more.`);
  }
  return error;
}

function choose(chosen) {
  table = chosen;
  key = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
  sendTable();
}

async function sendTable() {
  failure.hidden = again.hidden = form.hidden = true;
  receiving.hidden = false;
  bar.value = 0;
  words.textContent = `Sending ${table.name} …`;
  stop = new AbortController();
  const headers = { "Content-Type": types(table.name), "X-File-Name": encodeURIComponent(table.name), "Idempotency-Key": key };
  try {
    const made = await send(`/api/v1/datasets${said()}`, { body: table, headers, signal: stop.signal, progress: teller() });
    stop = null;
    words.textContent = `${table.name} is here.`;
    location.assign(`/new/${encodeURIComponent(made.upload_id)}`);
  } catch (error) {
    stop = null;
    fail(await failedBy(error));
  }
}

function teller() {
  const begun = performance.now();
  let said = 0;
  return (event) => {
    bar.value = event.total ? event.loaded / event.total : 0;
    const now = performance.now();
    if (now - said < 1000 && event.loaded < event.total) return;  // a screen reader can follow
    said = now;
    const speed = event.loaded / ((now - begun) / 1000);
    const left = speed ? `, ${duration((event.total - event.loaded) / speed)} left` : "";
    words.textContent = event.loaded < event.total
      ? `${size(event.loaded)} of ${size(event.total)}, ${size(speed)}/s${left}`
      : `All ${size(event.total)} are sent; the last rows are checked …`;
  };
}

file.addEventListener("change", () => { if (file.files.length) choose(file.files[0]); });
form.addEventListener("submit", (event) => { event.preventDefault(); if (file.files.length) choose(file.files[0]); });
again.addEventListener("click", sendTable);
document.getElementById("stop").addEventListener("click", () => stop?.abort());
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
drop.addEventListener("drop", (event) => {
  const dropped = event.dataTransfer?.files ?? [];
  if (dropped.length === 1) choose(dropped[0]);
  else fail(new Error("A study has one table; drop one file."));
});
window.addEventListener("beforeunload", (event) => { if (stop) event.preventDefault(); });
