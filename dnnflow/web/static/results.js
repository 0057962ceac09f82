// Fetches the parts of the results that take a while to compute, then plots as they come into sight.
import { drawPlots } from "./plots.js";

async function load(part, words) {
  try {
    const answer = await fetch(part.dataset.source, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    part.innerHTML = await answer.text();
    drawPlots(part);
  } catch (error) {
    part.append(Object.assign(document.createElement("p"), { textContent: `${words} cannot be shown: ${error.message}; load the page again.` }));
  }
}

const findings = document.getElementById("findings");
const analysis = document.getElementById("analysis");
if (findings?.dataset.source) await load(findings, "The leaderboard");
if (!analysis.hidden) load(analysis, "What the parameters did");
