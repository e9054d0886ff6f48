"use strict";
(() => {
  const root = document.documentElement, tip = document.getElementById("tip");
  document.getElementById("theme").addEventListener("click", () => {
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
  });

  const show = (target, x, y) => {
    tip.textContent = target.dataset.tip;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(x + 12, innerWidth - box.width - 8));
    const top = y + 16 + box.height > innerHeight ? y - box.height - 10 : y + 16;
    tip.style.left = left + "px";
    tip.style.top = Math.max(8, top) + "px";
  };
  const withTip = event => event.target.closest ? event.target.closest("[data-tip]") : null;
  document.addEventListener("pointermove", event => {
    const target = withTip(event);
    if (target) show(target, event.clientX, event.clientY); else tip.hidden = true;
  });
  document.addEventListener("focusin", event => {
    const target = withTip(event);
    if (!target) return;
    const box = target.getBoundingClientRect();
    show(target, box.left, box.bottom);
  });
  document.addEventListener("focusout", () => { tip.hidden = true; });

  const filter = (grid, words) => {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of grid.querySelectorAll("tbody tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => text.includes(word));
    }
  };
  for (const field of document.querySelectorAll("input.search")) {
    field.addEventListener("input", () => filter(field.closest(".grid"), field.value));
  }
  for (const cell of document.querySelectorAll("[data-filter]")) {
    cell.addEventListener("click", () => {
      const group = cell.closest(".group") || document;
      const map = cell.closest(".treemap,.icicle,.bars");
      const detail = cell.closest("section").querySelector(".detail");
      const named = document.getElementById(cell.dataset.table || "");
      const field = (named || group).querySelector("input.search");
      const isChosen = cell.classList.contains("chosen");
      for (const other of map.querySelectorAll(".chosen")) other.classList.remove("chosen");
      cell.classList.toggle("chosen", !isChosen);
      if (detail) detail.textContent = isChosen ? "" : cell.dataset.tip.replaceAll("\n", " · ");
      if (field) {
        field.value = isChosen ? "" : cell.dataset.filter;
        filter(field.closest(".grid"), field.value);
      }
    });
  }

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    table.tHead.addEventListener("click", event => {
      const head = event.target.closest("th");
      if (!head) return;
      const column = head.cellIndex, body = table.tBodies[0], rows = [...body.rows];
      const isNumber = head.classList.contains("n");
      const now = head.getAttribute("aria-sort");
      const next = now === null ? (isNumber ? "descending" : "ascending")
        : now === "descending" ? "ascending" : "descending";
      for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", next);
      const sign = next === "ascending" ? 1 : -1;
      rows.sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        return sign * (isNumber ? x - y : String(x).localeCompare(String(y)));
      });
      body.append(...rows);
    });
  }
})();
