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
      const rows = [...table.tBodies[0].rows];
      const key = (row) => row.cells[column].dataset.value || row.cells[column].textContent.trim();
      rows.sort((a, b) => {
        if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
        return sign * (Number(key(a)) - Number(key(b)) || key(a).localeCompare(key(b)));
      });
      table.tBodies[0].append(...rows);
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
// Contents: the section being read is marked.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
const sections = [...links.keys()].map((id) => document.getElementById(id));
let current = null;
function follow() {
  const line = Math.min(innerHeight / 3, 240);
  const atEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 2;
  const passed = sections.filter((section) => section.getBoundingClientRect().top <= line);
  const section = atEnd ? sections.at(-1) : passed.at(-1) || sections[0];
  const link = links.get(section.id);
  if (link === current) return;
  if (current) current.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  current = link;
  const list = link.closest("ol");  // on narrow screens the list scrolls sideways
  list.scrollTo({ left: link.offsetLeft - list.clientWidth / 3 });
}
addEventListener("scroll", () => requestAnimationFrame(follow), { passive: true });
addEventListener("resize", follow);
follow();
// A link into something folded unfolds it.
function unfold() {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  const details = target && target.closest("details");
  if (details) details.open = true;
}
addEventListener("hashchange", unfold);
unfold();
