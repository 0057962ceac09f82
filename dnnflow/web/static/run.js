// Follows a parallel training by server-sent events.
import { follow } from "./follow.js";
import { count, number } from "./format.js";
import { ask } from "./sure.js";

const run = document.getElementById("run");
const at = (id) => document.getElementById(id);

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

function follows(status) {
  update(status);
  if (["finished", "failed", "cancelled"].includes(status.state)) location.reload();  // its results are on the page then
}

if (!run.dataset.ended) follow(`/api/v1/runs/${encodeURIComponent(run.dataset.run)}`, follows, () => false);
at("cancel")?.addEventListener("submit", async (event) => {
  const form = event.target;
  event.preventDefault();
  if (await ask(at("sure"))) form.submit();
});
