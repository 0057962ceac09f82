// Keeps what was typed on a page whose session has ended, until it is there again after the login.
const KEY = "typed";
const place = location.pathname + location.search;

function fields() {
  const found = document.querySelectorAll("form[method=post] [name], form:not([method]) [name]");
  return [...found].filter((field) => !["hidden", "password", "file"].includes(field.type));
}

export function keepTyped() {
  const values = fields().map((field) => [field.name, field.value, field.checked ?? null]);
  try { sessionStorage.setItem(KEY, JSON.stringify({ place, values })); } catch { /* too much to keep */ }
}

function restore() {
  const kept = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  sessionStorage.removeItem(KEY);
  const isFromLogin = document.referrer && new URL(document.referrer).pathname === "/login";
  if (kept?.place !== place || !isFromLogin) return;
  for (const [at, field] of fields().entries()) {
    const [name, value, checked] = kept.values[at] ?? [];
    if (field.name !== name) return;  // the page has other fields by now
    const isChoice = ["checkbox", "radio"].includes(field.type);
    if (isChoice ? field.checked === checked : field.value === value) continue;
    if (isChoice) field.checked = checked;
    else field.value = value;
    if (field.type === "radio" && !checked) continue;
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.dispatchEvent(new Event("change", { bubbles: true }));
  }
}

document.addEventListener("submit", (event) => { if (event.target.method === "post") keepTyped(); });
setTimeout(restore);  // once the page's own script listens
