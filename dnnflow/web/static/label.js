// Shows what the columns that are chosen are as labels, or why they cannot be.
const form = document.getElementById("label-form");
const classes = document.getElementById("classes");
const search = document.getElementById("search");
const buttons = form.querySelectorAll("[data-start]");
const chosen = () => [...form.querySelectorAll("[name=label]:checked")];
let asked = null;

function allow() {
  const refused = classes.querySelector(".note.bad") || !chosen().length;
  for (const button of buttons) button.disabled = Boolean(refused);
}

async function choose() {
  for (const row of form.querySelectorAll("#columns tbody tr")) row.classList.toggle("chosen", Boolean(row.querySelector(":checked")));
  const query = new URLSearchParams(chosen().map((input) => ["at", input.dataset.column]));
  const mine = asked = fetch(`/new/${form.dataset.upload}/columns?${query}`, { credentials: "same-origin" });
  const answer = await mine;
  const text = answer.ok ? await answer.text() : "<p>The server does not answer; try again.</p>";
  if (asked !== mine) return;
  classes.innerHTML = text;
  allow();
}

form.addEventListener("change", (event) => { if (event.target.name === "label") choose(); });
search?.addEventListener("formdata", ({ formData }) => { for (const input of chosen()) formData.append("label", input.value); });
allow();
