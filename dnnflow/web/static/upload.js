// Sends a table as it is read from disk, and shows how far it is.
import { csrfHeaders, show } from "./api.js";
import { duration, size } from "./format.js";

const form = document.getElementById("upload");
const drop = document.getElementById("drop");
const file = document.getElementById("file");
const receiving = document.getElementById("receiving");
const words = document.getElementById("receiving-words");
const bar = document.getElementById("receiving-bar");
const failure = document.getElementById("failure");
let request = null;

function types(name) {
  if (/\.gz$/i.test(name)) return "application/gzip";
  return /\.zst$/i.test(name) ? "application/zstd" : "text/csv";
}

function fail(message, problem) {
  receiving.hidden = true;
  form.hidden = false;
  file.value = "";
  show(failure, Object.assign(new Error(message), { problem }));
  failure.focus();
}

function ended(name) {
  let data = {};
  try { data = JSON.parse(request.responseText); } catch { /* said below */ }
  const id = data.upload_id ?? data.dataset_id;
  if (request.status === 201 || request.status === 200) {
    words.textContent = `${name} is here.`;
    location.assign(`/new/${encodeURIComponent(id)}`);
  } else {
    fail(data.detail ?? `The table was not taken: the server answered ${request.status || "nothing"}; try again.`, data);
  }
}

function send(table) {
  failure.hidden = true;
  form.hidden = true;
  receiving.hidden = false;
  bar.value = 0;
  words.textContent = `Sending ${table.name} …`;
  const begun = performance.now();
  let said = 0;
  request = new XMLHttpRequest();
  request.open("POST", "/api/v1/datasets");
  const key = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
  const headers = { "Content-Type": types(table.name), "X-File-Name": encodeURIComponent(table.name), "Idempotency-Key": key };
  for (const [name, value] of Object.entries(csrfHeaders(headers))) request.setRequestHeader(name, value);
  request.upload.onprogress = (event) => {
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
  request.onload = () => ended(table.name);
  request.onerror = () => ended(table.name);
  request.onabort = () => fail("The upload was stopped; nothing of it is kept.");
  request.send(table);
}

file.addEventListener("change", () => { if (file.files.length) send(file.files[0]); });
form.addEventListener("submit", (event) => { event.preventDefault(); if (file.files.length) send(file.files[0]); });
document.getElementById("stop").addEventListener("click", () => request?.abort());
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
drop.addEventListener("drop", (event) => {
  const dropped = event.dataTransfer?.files ?? [];
  if (dropped.length === 1) send(dropped[0]);
  else fail("A study has one table; drop one file.");
});
window.addEventListener("beforeunload", (event) => { if (request && request.readyState !== 4 && !receiving.hidden) event.preventDefault(); });
