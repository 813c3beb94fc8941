// SPDX-License-Identifier: MIT

// On a narrow page a table of four or more columns is shown as one card for each row, see
// pages.css. A cell then says which column it is. Without this script it does not.
document.addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table.docutils")) {
    const titles = Array.from(table.querySelectorAll("thead th"), (cell) => cell.textContent);
    for (const row of table.querySelectorAll("tbody tr")) {
      for (const [column, cell] of Array.from(row.cells).entries()) {
        cell.dataset.title = titles[column] ?? "";
        cell.classList.toggle("empty", !cell.textContent.trim());
      }
    }
  }
});
