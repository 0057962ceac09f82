// Fetches the parts of the results that take a while to compute, then plots as they come into sight.
import { part } from "./api.js";
import { drawPlots } from "./plots.js";

async function load(place, words) {
  try {
    place.innerHTML = await part(place.dataset.source);
    drawPlots(place);
  } catch (error) {
    const said = Object.assign(document.createElement("p"), { textContent: `${words} cannot be shown: ${error.message}` });
    said.setAttribute("role", "alert");
    place.replaceChildren(said);
  }
}

const findings = document.getElementById("findings");
const analysis = document.getElementById("analysis");
if (findings?.dataset.source) await load(findings, "The leaderboard");
if (!analysis.hidden) load(analysis, "What the parameters did");
