// Keeps the YAML, the problems and the estimate beside the form as it is filled in.
import { call } from "./api.js";

const form = document.getElementById("rules");
const yaml = document.getElementById("yaml");
const copy = document.getElementById("copy");
const estimate = document.getElementById("estimate");
const troubles = document.getElementById("troubles");
let asked = null, timer = 0;

function showTroubles(found) {
  for (const field of form.querySelectorAll("[data-path]")) {
    const message = found.fields[field.dataset.path] ?? "";
    const wrong = field.querySelector(".wrong");
    if (wrong.textContent !== message) wrong.textContent = message;
    const input = field.querySelector("[name]:not([name$=':form'])");
    if (message) { input.setAttribute("aria-invalid", "true"); field.closest("details")?.setAttribute("open", ""); }
    else input.removeAttribute("aria-invalid");
  }
  troubles.replaceChildren();
  if (found.others.length) {
    const note = document.createElement("div");
    note.className = "note bad";
    for (const message of found.others) {
      const line = document.createElement("p");
      line.textContent = message;
      note.append(line);
    }
    troubles.append(note);
  }
}

async function check() {
  asked?.abort();
  asked = new AbortController();
  try {
    const body = new URLSearchParams(new FormData(form));
    const found = await call(form.dataset.check, { method: "POST", body, signal: asked.signal });
    yaml.value = found.yaml;
    showTroubles(found);
    estimate.hidden = !found.estimate;
    for (const place of estimate.querySelectorAll("[data-estimate]")) {
      place.textContent = found.estimate?.[place.dataset.estimate] ?? "–";
    }
  } catch (error) {
    if (error.name !== "AbortError") showTroubles({ fields: {}, others: [error.message] });
  }
}

function soon() {
  clearTimeout(timer);
  timer = setTimeout(check, 250);
}

form.addEventListener("input", soon);
form.addEventListener("change", (event) => {
  if (event.target.name.endsWith(":form")) {
    event.target.parentElement.querySelector("input").placeholder = event.target.selectedOptions[0].dataset.hint;
  }
});
copy.hidden = !navigator.clipboard;
copy.addEventListener("click", async () => {
  await navigator.clipboard.writeText(yaml.value);
  document.getElementById("copied").textContent = "Copied.";
});
form.querySelector("[aria-invalid]")?.focus();
