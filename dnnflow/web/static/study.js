// Follows a study by server-sent events: numbers, live plots, failures, controls.
import { call, show } from "./api.js";
import { draw } from "./bins.js";
import { follow } from "./follow.js";
import { count, duration, rate } from "./format.js";
import { ask } from "./sure.js";

const watch = document.getElementById("watch");
const base = `/api/v1/studies/${encodeURIComponent(watch.dataset.study)}`;
const at = (id) => document.getElementById(id);
const OVER = ["finished", "failed", "stopped"];
let last = JSON.parse(at("status").textContent);
let drawn = "", failed = null, saidAt = 0;

const text = (id, value) => { const place = at(id); if (place.textContent !== value) place.textContent = value; };

function link(id, address, isShown) {
  const place = at(id);
  place.hidden = !(isShown && /^https?:\/\//.test(address ?? ""));
  if (!place.hidden) place.href = address;
}

function words(status) {
  if (status.state === "queued" && status.queue_place) return `${status.queue_place} job${status.queue_place === 1 ? "" : "s"} before it`;
  if (status.wanted === "cancel" && !OVER.includes(status.state)) return "is being cancelled";
  if (status.state === "paused") return "goes on where it was when it is resumed";
  if (status.state === "stopped") return "can be resumed";
  const isTraining = status.state === "running" && status.completed + status.failed !== status.total;
  return OVER.includes(status.state) || isTraining ? "" : status.stage ?? "";
}

function markStage(stage) {
  const now = (stage ?? "").split(":")[0];
  for (const one of at("stages").children) {
    if (one.dataset.stages.split(" ").includes(now)) one.setAttribute("aria-current", "step");
    else one.removeAttribute("aria-current");
  }
}

function update(status) {
  const done = status.completed + status.failed;
  const before = last;
  last = status;
  at("state").className = `state ${status.state}`;
  text("state", status.state);
  text("stage", words(status));
  markStage(status.stage);
  at("bar").max = status.total || 1;
  at("bar").value = done;
  text("done", count(done));
  text("total", status.total === null ? "–" : count(status.total));
  text("best", status.best?.text ?? "–");
  at("best-design").hidden = !status.best;
  if (status.best) {
    text("best-design", status.best.design);
    at("best-design").href = `/studies/${encodeURIComponent(status.study_id)}/trials/${encodeURIComponent(status.best.design_id)}`;
  }
  text("rate", rate(status.rate));
  text("eta", duration(status.eta_s));
  at("left").hidden = status.eta_s === null;
  text("elapsed", duration(status.elapsed_s));
  text("failed", count(status.failed));
  if (status.dataset) {
    const classes = status.dataset.classes ? `${count(status.dataset.classes)} classes of ` : "";
    text("dataset", `${count(status.dataset.rows)} rows, ${count(status.dataset.features)} features, ${classes}${status.dataset.label}`);
  }
  const notes = status.dataset?.notes ?? [];
  if (notes.length !== at("notes-list").children.length) {
    at("notes-list").replaceChildren(...notes.map((note) => Object.assign(document.createElement("li"), { textContent: note })));
    text("notes-count", count(notes.length));
  }
  at("notes").hidden = !notes.length;
  const failure = at("failure");
  failure.hidden = !status.error;
  if (status.error) show(failure, new Error(status.error));
  for (const form of watch.querySelectorAll("[data-action]")) form.hidden = !form.dataset.states.split(" ").includes(status.state);
  at("to-results").hidden = !done;
  link("dashboard", status.dashboard, !OVER.includes(status.state));
  link("run-url", status.run_url, true);
  const bins = JSON.stringify(status.live ?? null);
  if (bins !== drawn) {
    drawn = bins;
    draw(at("live-score"), status.live?.score, { measure: "accuracy" });
    draw(at("live-time"), status.live?.time, { measure: "training time, s", unit: " s" });
  }
  if (status.failed !== failed) { failed = status.failed; if (failed) listFailures(); }
  announce(before, status, done);
}

function announce(before, status, done) {
  const now = performance.now();
  if (before.state === status.state && now - saidAt < 20000) return;  // often enough for a screen reader
  saidAt = now;
  text("announced", `${status.state}, ${count(done)} of ${count(status.total)} designs, best ${status.best ? `${status.best.metric} ${status.best.text}` : "none yet"}`);
}

async function listFailures() {
  try {
    const { failures } = await call(`${base}/failures`);
    at("failures").hidden = !failures.length;
    at("failure-rows").replaceChildren(...failures.map((one) => {
      const row = document.createElement("tr");
      const kind = row.insertCell(), many = row.insertCell(), message = row.insertCell();
      kind.className = "t";
      message.className = "t wide";
      kind.textContent = one.type;
      many.textContent = count(one.count);
      const more = document.createElement("a");
      more.href = `/studies/${encodeURIComponent(last.study_id)}/trials/${encodeURIComponent(one.design_id)}`;
      more.textContent = one.message;
      message.append(more);
      return row;
    }));
  } catch { /* the next change asks again */ }
}

async function command(action, button) {
  button.disabled = true;
  try {
    await call(`${base}/${action}`, { method: "POST" });
    update(await call(base));
    goOn();
  } catch (error) {
    show(at("failure"), error);
  } finally {
    button.disabled = false;
  }
}

watch.addEventListener("submit", async (event) => {
  const form = event.target.closest("[data-action]");
  if (!form) return;
  event.preventDefault();
  if (form.dataset.action !== "cancel" || await ask(at("sure"))) command(form.dataset.action, form.querySelector("button"));
});

update(last);
const goOn = last.state === "finished" ? () => {} : follow(base, update, () => OVER.includes(last.state));
