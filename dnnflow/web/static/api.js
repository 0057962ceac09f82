// Calls of this server: with the page's CSRF token, refusals as errors with rule and remedy, and the login where a
// session has ended.
import { keepTyped } from "./typed.js";

const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

export class Refusal extends Error {
  constructor(problem, status) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

const headersWith = (more = {}) => ({ "X-CSRF-Token": token, Accept: "application/json", ...more });
const isAway = () => new Refusal({ detail: "The server does not answer; try again when it is back." }, 0);

function logIn() {
  keepTyped();
  location.assign(`/login?${new URLSearchParams({ next: location.pathname + location.search, ended: true })}`);
  return new Promise(() => {});  // nothing more happens on this page
}

function answered(status, type, text) {
  if (status === 401) return logIn();
  const isOk = status >= 200 && status < 300;
  if (!(type ?? "").includes("json")) {
    if (isOk) return text;
    throw new Refusal({}, status);
  }
  const data = JSON.parse(text);
  if (!isOk) throw new Refusal(data, status);
  return data;
}

export async function call(path, { method = "GET", body, headers, signal } = {}) {
  let answer, text;
  try {
    answer = await fetch(path, { method, body, headers: headersWith(headers), signal, credentials: "same-origin" });
    text = await answer.text();
  } catch (error) {
    throw error.name === "AbortError" ? error : isAway();
  }
  return answered(answer.status, answer.headers.get("content-type"), text);
}

// Save a file that the server makes, under the name that it gives
export async function download(path) {
  let answer;
  try {
    answer = await fetch(path, { headers: headersWith(), credentials: "same-origin" });
    if (!answer.ok) return answered(answer.status, answer.headers.get("content-type"), await answer.text());
    const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition") ?? "")?.[1] ?? "";
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(await answer.blob()), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  } catch (error) {
    throw error instanceof Refusal ? error : isAway();
  }
}

export const part = (path) => call(path, { headers: { Accept: "text/html" } });

// As `call`, of a body whose way is told
export function send(path, { body, headers, signal, progress }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries(headersWith(headers))) request.setRequestHeader(name, value);
    request.upload.onprogress = progress;
    request.onload = () => {
      try {
        resolve(answered(request.status, request.getResponseHeader("content-type"), request.responseText));
      } catch (error) { reject(error); }
    };
    request.onerror = () => reject(isAway());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(body);
  });
}

export function show(element, error) {
  element.replaceChildren();
  const line = document.createElement("p");
  line.textContent = error.message;
  element.append(line);
  for (const one of error.problem?.errors ?? []) {
    const more = document.createElement("p");
    more.textContent = `${one.where}: ${one.message}`;
    element.append(more);
  }
  element.hidden = false;
}
