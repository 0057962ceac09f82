// Draws trials that were counted by hidden layers and a measure, as an SVG that takes the page's colours.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 460, HEIGHT = 270, LEFT = 64, BOTTOM = 40, TOP = 10, RIGHT = 10;

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

function ticks(low, high, most) {
  const step = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(step));
  const nice = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= step * 0.999);
  const found = [];
  for (let at = Math.ceil(low / nice) * nice; at <= high + nice * 1e-6; at += nice) found.push(Number(at.toPrecision(10)));
  return found;
}

export function draw(place, grid, { measure, unit = "" }) {
  if (!grid || !grid.cells.length) {
    place.textContent = "No design is trained yet.";
    place.className = "soft";
    return;
  }
  const columns = Math.max(...grid.cells.map((cell) => cell[0])) + 1;
  const rows = Math.max(...grid.cells.map((cell) => cell[1])) + 1;
  const firstRow = Math.min(...grid.cells.map((cell) => cell[1]));
  const low = grid.low + Math.max(0, firstRow - 1) * grid.height;
  const high = grid.low + rows * grid.height;
  const plotWidth = WIDTH - LEFT - RIGHT, plotHeight = HEIGHT - TOP - BOTTOM;
  const step = plotWidth / columns;
  const y = (value) => TOP + plotHeight * (1 - (value - low) / (high - low || 1));
  const most = Math.max(...grid.cells.map((cell) => cell[2]));
  const total = grid.cells.reduce((sum, cell) => sum + cell[2], 0);
  const means = new Map();
  for (const [column, row, count] of grid.cells) {
    const known = means.get(column) ?? [0, 0];
    means.set(column, [known[0] + count * (grid.low + (row + 0.5) * grid.height), known[1] + count]);
  }
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("class", "bins");
  svg.setAttribute("role", "img");
  const depth = (column) => grid.first_depth + column * grid.depth_width;
  const said = [...means].sort((a, b) => a[0] - b[0]).slice(0, 40)
    .map(([column, [sum, count]]) => `${depth(column)}: ${(sum / count).toPrecision(3)}${unit}`).join(", ");
  svg.setAttribute("aria-label", `${measure} of ${total} trials; mean by hidden layers: ${said}`);
  for (const value of ticks(low, high, 5)) {
    add(svg, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value) });
    add(svg, "text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, `${Number(value.toPrecision(4))}`);
  }
  const every = Math.ceil(columns / 10);
  for (let column = 0; column < columns; column += every) {
    add(svg, "text", { x: LEFT + (column + 0.5) * step, y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, depth(column));
  }
  add(svg, "text", { x: LEFT + plotWidth / 2, y: HEIGHT - 5, "text-anchor": "middle" }, "hidden layers");
  add(svg, "text", { x: 12, y: TOP + plotHeight / 2, "text-anchor": "middle", transform: `rotate(-90 12 ${TOP + plotHeight / 2})` }, measure);
  const thick = Math.max(2, plotHeight * grid.height / (high - low || 1) - 1);
  const wide = Math.min(Math.max(2, step - 2), 34);
  for (const [column, row, count] of grid.cells) {
    const share = Math.log1p(count) / Math.log1p(most);
    const cell = add(svg, "rect", {
      x: LEFT + (column + 0.5) * step - wide / 2, width: wide, rx: 2,
      y: y(grid.low + (row + 1) * grid.height), height: thick, "fill-opacity": (0.2 + 0.8 * share).toFixed(2),
    });
    add(cell, "title", {}, `${depth(column)} hidden layers, ${count} trial${count === 1 ? "" : "s"}`);
  }
  if (grid.is_cut) add(svg, "text", { x: LEFT + 4, y: TOP + 2 }, "top row: and above");
  const line = [...means].sort((a, b) => a[0] - b[0])
    .map(([column, [sum, count]]) => `${LEFT + (column + 0.5) * step},${y(sum / count).toFixed(1)}`).join(" ");
  add(svg, "polyline", { points: line });
  place.className = "";
  place.replaceChildren(svg);
}
