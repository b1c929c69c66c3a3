"use strict";
// Sorting: every heading of a sortable table becomes a button; cells carry their rank in data-value.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent.trim();
    heading.replaceChildren(button);
    heading.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const numeric = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = before === first ? second : first;
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      // A table with several bodies (a claim and its details each) is sorted by body.
      const many = table.tBodies.length > 1;
      const parent = many ? table : table.tBodies[0];
      const items = [...(many ? table.tBodies : parent.rows)];
      const key = (item) => (many ? item.rows[0] : item).cells[column].dataset.value;
      items.sort((a, b) => {
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
        return sign * (Number(key(a)) - Number(key(b)));
      });
      parent.append(...items);
    });
  });
}
// Enlarging: one dialog for all figures.
const viewer = document.getElementById("viewer");
for (const button of document.querySelectorAll("button.enlarge")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    const shown = viewer.querySelector("img");
    shown.src = image.src;
    shown.alt = image.alt;
    const caption = button.closest("figure").querySelector("figcaption p");
    document.getElementById("viewer-caption").textContent = caption.textContent;
    viewer.showModal();
  });
}
viewer.addEventListener("click", (event) => {
  if (event.target === viewer) viewer.close();
});
// Printing: everything that is folded is unfolded, and folded again afterwards.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  folded.forEach((details) => { details.open = true; });
});
addEventListener("afterprint", () => folded.forEach((details) => { details.open = false; }));
