// Fetches the part of the results that takes a while to compute, then its plots as they come into sight.
import { drawPlots } from "./plots.js";

const analysis = document.getElementById("analysis");

async function load() {
  try {
    const answer = await fetch(analysis.dataset.source, { credentials: "same-origin", headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    analysis.innerHTML = await answer.text();
    drawPlots(analysis);
  } catch (error) {
    analysis.textContent = `What the parameters did cannot be shown: ${error.message}; load the page again.`;
  }
}

if (!analysis.hidden) load();
