// Draws the grids of two studies.
import { draw } from "./bins.js";

const grids = JSON.parse(document.getElementById("grids").textContent);
const words = { score: { measure: "accuracy" }, time: { measure: "training time, s", unit: " s" } };
for (const place of document.querySelectorAll("[data-grid]")) {
  draw(place, grids[place.dataset.grid]?.[place.dataset.measure], words[place.dataset.measure]);
}
