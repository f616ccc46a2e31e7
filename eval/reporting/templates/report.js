withPlotly((plotly) => {
  for (const [name, figure] of Object.entries(figures)) {
    plotly.newPlot(`figure-${name}`, figure.data, figure.layout, { responsive: true, displaylogo: false });
  }
}, Object.keys(figures).map((name) => `figure-${name}`));

function sortBy(table, index) {
  const heads = [...table.tHead.rows[0].cells];
  const head = heads[index];
  const descending = head.getAttribute("aria-sort") !== "descending";
  const value = (row) => row.cells[index].dataset.value;
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.every((row) => value(row) !== "" && !Number.isNaN(Number(value(row))));
  rows.sort((a, b) => {
    const order = numeric ? Number(value(a)) - Number(value(b)) : value(a).localeCompare(value(b));
    return descending ? -order : order;
  });
  heads.forEach((other) => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    head.firstElementChild?.addEventListener("click", () => sortBy(table, index));
  });
}
