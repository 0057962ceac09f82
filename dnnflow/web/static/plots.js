// Fetches plots as they come into sight, and draws them with Bokeh in the page's colours.
import { call } from "./api.js";

const dark = matchMedia("(prefers-color-scheme: dark)");
// Bokeh draws on a canvas, which style sheets do not reach: axes take the page's colours here
const PARTS = {
  Axis: (c) => ({ axis_label_text_color: c.ink, major_label_text_color: c.soft, axis_line_color: c.soft, major_tick_line_color: c.soft }),
  Grid: (c) => ({ grid_line_color: c.soft }),
  Legend: (c) => ({ label_text_color: c.ink }),
};

function paint() {
  const style = getComputedStyle(document.documentElement);
  const colours = { ink: style.getPropertyValue("--text").trim(), soft: style.getPropertyValue("--soft").trim() };
  for (const drawn of window.Bokeh.documents) {
    for (const root of drawn.roots()) {
      for (const model of root.references()) {
        const part = Object.keys(PARTS).find((name) => model.type.endsWith(name));
        if (part) model.setv(PARTS[part](colours));
        if (model.tags?.includes("ink")) model.text_color = { value: colours.ink };
      }
    }
  }
}

async function load(place) {
  try {
    const item = await call(`${place.dataset.source}/${place.dataset.plot}`);
    await window.Bokeh.embed.embed_item(item, place.id);
    paint();
    place.dataset.state = "drawn";
  } catch (error) {
    place.dataset.state = "failed";
    const figure = place.closest("figure");
    if (error.status === 404 && figure) figure.hidden = true;  // there are no numbers for this plot
    else place.textContent = error.message;
  }
}

dark.addEventListener("change", paint);
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    load(entry.target);
  }
}, { rootMargin: "300px" });

export function drawPlots(part) {
  for (const place of part.querySelectorAll("[data-plot]")) seen.observe(place);
}
