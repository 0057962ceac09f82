// Fetches the parts of the results that take a while to compute, then plots as they come into sight.
import { download, part, show } from "./api.js";
import { drawPlots } from "./plots.js";

// Some models are made when they are asked for, and cannot be made of every table: what is wrong is told here, not on a page of its own
for (const link of document.querySelectorAll("a.on-demand")) link.addEventListener("click", async (event) => {
  event.preventDefault();
  const words = link.textContent;
  link.parentElement.querySelector(".note.bad")?.remove();
  link.textContent = "Making it …";
  try {
    await download(link.href);
  } catch (error) {
    const note = Object.assign(document.createElement("div"), { className: "note bad" });
    note.setAttribute("role", "alert");
    show(note, error);
    link.after(note);
  } finally { link.textContent = words; }
});

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
