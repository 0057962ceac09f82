// Fetches plots as they come into sight, and draws them with Bokeh in the page's colours.
import { call, show } from "./api.js";
import { count } from "./format.js";

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

function written(value) {
  if (value === null) return "–";
  return typeof value === "number" && !Number.isInteger(value) ? String(Number(value.toPrecision(4))) : String(value);
}

function row(values, kind, scope) {
  const made = document.createElement("tr");
  for (const value of values) {
    const cell = document.createElement(kind);
    if (scope) cell.scope = scope;
    if (typeof value === "string") cell.className = "t";
    cell.textContent = written(value);
    made.append(cell);
  }
  return made;
}

function tableOf({ columns, rows, left_out: leftOut }, name) {
  const place = document.createElement("div");
  place.className = "scroll tall";
  place.tabIndex = 0;
  place.setAttribute("role", "region");
  place.setAttribute("aria-label", `Numbers of: ${name}, by ${columns[0]}`);
  const table = document.createElement("table"), head = table.createTHead(), body = table.createTBody();
  head.append(row(columns, "th", "col"));
  for (const [at, cell] of [...head.rows[0].cells].entries()) cell.className = typeof rows[0][at] === "string" ? "t" : "";
  body.append(...rows.map((values) => row(values, "td")));
  if (leftOut) table.createCaption().textContent = `The first ${count(rows.length)} of ${count(rows.length + leftOut)}; the CSV has all trials.`;
  place.append(table);
  return place;
}

async function tell(details) {
  const place = details.querySelector("div");
  if (place.childElementCount) return;
  try {
    const numbers = await call(details.dataset.numbers);
    const legend = document.createElement("p");
    legend.textContent = numbers.legend.filter((text) => /\D/.test(text)).join("; ");
    legend.hidden = !legend.textContent;
    const name = details.closest("figure").querySelector("figcaption").textContent;
    place.replaceChildren(legend, ...numbers.tables.map((one) => tableOf(one, name)));
  } catch (error) { show(place, error); }
}

export function drawPlots(part) {
  for (const details of part.querySelectorAll("[data-numbers]")) {
    details.addEventListener("toggle", () => { if (details.open) tell(details); });
  }
  for (const place of part.querySelectorAll("[data-plot]")) seen.observe(place);
}
