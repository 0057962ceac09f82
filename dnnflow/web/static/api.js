// Calls of this server: with the page's CSRF token, and refusals as errors with rule and remedy.
const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

export class Refusal extends Error {
  constructor(problem, status) {
    super(problem.detail ?? problem.title ?? `the server answered ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

export function csrfHeaders(more = {}) {
  return { "X-CSRF-Token": token, Accept: "application/json", ...more };
}

export async function call(path, { method = "GET", body, headers, signal } = {}) {
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: csrfHeaders(headers), signal, credentials: "same-origin" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal({ detail: "The server does not answer; try again when it is back." }, 0);
  }
  const isJson = (answer.headers.get("content-type") ?? "").includes("json");
  const data = isJson ? await answer.json() : await answer.text();
  if (!answer.ok) throw new Refusal(isJson ? data : {}, answer.status);
  return data;
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
