// Shows the classes of the column that is chosen, or why it cannot be the label.
const form = document.getElementById("label-form");
const classes = document.getElementById("classes");
const buttons = form.querySelectorAll("[data-start]");

function allow() {
  const refused = classes.querySelector(".note.bad") || !form.querySelector("[name=label]:checked");
  for (const button of buttons) button.disabled = Boolean(refused);
}

async function choose(radio) {
  for (const row of form.querySelectorAll("tr.chosen")) row.classList.remove("chosen");
  radio.closest("tr").classList.add("chosen");
  const answer = await fetch(`/new/${form.dataset.upload}/columns/${radio.dataset.column}`, { credentials: "same-origin" });
  if (radio.checked) {
    classes.innerHTML = answer.ok ? await answer.text() : "<p>The server does not answer; try again.</p>";
    allow();
  }
}

form.addEventListener("change", (event) => { if (event.target.name === "label") choose(event.target); });
allow();
