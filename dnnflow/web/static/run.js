// Follows a parallel training by server-sent events.
import { count, number } from "./format.js";

const run = document.getElementById("run");
const at = (id) => document.getElementById(id);
let source = null;

function update(status) {
  const progress = status.progress;
  const state = status.state === "cancelled" ? "stopped" : status.state;
  const badge = at("run-state").querySelector(".state");
  badge.className = `state ${state}`;
  badge.textContent = state;
  at("run-state").querySelector(".soft").textContent = status.stage ?? "";
  if (!progress) return;
  at("run-bar").max = progress.total || 1;
  at("run-bar").value = progress.samples;
  at("run-samples").textContent = count(progress.samples);
  at("run-total").textContent = count(progress.total);
  at("run-rate").textContent = count(Math.round(progress.rate));
  at("run-loss").textContent = number(progress.loss);
  at("run-replicas").textContent = progress.replicas;
  at("run-measures").replaceChildren(...Object.entries(progress.measures ?? {}).flatMap(([name, value]) => {
    const term = document.createElement("dt"), shown = document.createElement("dd");
    term.textContent = name;
    shown.textContent = number(value);
    return [term, shown];
  }));
}

function follow() {
  source = new EventSource(`/api/v1/runs/${encodeURIComponent(run.dataset.run)}/events`);
  const over = ["finished", "failed", "cancelled", "stopped"];
  source.addEventListener("status", (event) => {
    at("away").hidden = true;
    const status = JSON.parse(event.data);
    update(status);
    if (over.includes(status.state)) { source.close(); location.reload(); }  // its results are on the page then
  });
  source.addEventListener("end", () => { source.close(); setTimeout(follow, 2000); });
  source.onopen = () => { at("away").hidden = true; };
  source.onerror = () => {
    at("away").hidden = document.visibilityState === "hidden";
    if (source.readyState === EventSource.CLOSED) setTimeout(follow, 3000);
  };
}

window.addEventListener("pagehide", () => source?.close());
if (!run.dataset.ended) follow();
