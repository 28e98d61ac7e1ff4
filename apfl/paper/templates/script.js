"use strict";
// The page reads without this script; with it tables are sorted, one test is chosen, and numbers open what made them.
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  // The test: rows and figures of the others are hidden, and the name of a group moves to its first visible row.

  const controls = document.getElementById("controls");

  const chosen = () => new FormData(controls).get("test") ?? "all";

  const showGroup = (group) => {
    const shown = [...group.rows].filter((row) => !row.hidden);
    const name = group.querySelector("th.group");
    group.hidden = !shown.length;
    if (name && shown.length) {
      shown[0].prepend(name);
      name.rowSpan = shown.length;
    }
  };

  const showTest = () => {
    const test = chosen(), meaning = controls.querySelector(".meaning");
    meaning.textContent = controls.querySelector("input:checked").dataset.meaning;
    meaning.hidden = !meaning.textContent;
    for (const item of all("[data-test]")) item.hidden = test !== "all" && item.dataset.test !== test;
    all("tbody.lines").forEach(showGroup);
    for (const head of all("tbody.section")) {
      let next = head.nextElementSibling, seen = false;
      for (; next && !next.matches(".section"); next = next.nextElementSibling) seen ||= !next.hidden;
      head.hidden = !seen;
    }
    for (const part of all("section.output")) {
      const tested = all("[data-test]", part);
      const note = part.querySelector(":scope > .absent");
      if (note) note.hidden = !tested.length || tested.some((item) => !item.hidden);
    }
    for (const head of all("table[data-sort='groups'] th:not([aria-sort='none'])[aria-sort]")) sort(head);
  };

  // Sorting: whole groups of lines within a data set, or the rows of a plain table. What has no number comes last.

  const places = new Map(all("table[data-sort] > tbody, table[data-sort='rows'] > tbody > tr").map((item, i) => [item, i]));

  const lineOf = (group) => {
    const lines = [...group.rows].filter((row) => row.dataset.test && !row.hidden);
    return lines[0] ?? [...group.rows].find((row) => !row.hidden);
  };

  const cellOf = (item, column) =>
    item.matches("tbody") ? lineOf(item) && all("td", lineOf(item))[column - 2] : item.cells[column];

  const key = (item, head) => {
    const cell = cellOf(item, head.cellIndex);
    const text = cell ? cell.dataset.value ?? cell.textContent.trim() : "";
    return head.matches(".text") ? text : parseFloat(text);
  };

  const lacking = (value) => value === "" || Number.isNaN(value);

  const compare = (one, other, direction) => {
    if (lacking(one) || lacking(other)) return lacking(one) - lacking(other);
    const order = typeof one === "string" ? one.localeCompare(other, "en", { numeric: true }) : one - other;
    return direction === "ascending" ? order : -order;
  };

  const ordered = (items, head, direction) =>
    items.map((item) => [key(item, head), places.get(item), item])
      .sort((a, b) => (direction === "none" ? 0 : compare(a[0], b[0], direction)) || a[1] - b[1])
      .map((entry) => entry[2]);

  const sort = (head) => {
    const table = head.closest("table"), direction = head.getAttribute("aria-sort");
    if (table.dataset.sort === "rows") {
      table.tBodies[0].append(...ordered([...table.tBodies[0].rows], head, direction));
      return;
    }
    const parts = [[]];
    for (const body of [...table.tBodies].sort((a, b) => places.get(a) - places.get(b))) {
      if (body.matches(".section")) parts.push([body]);
      else parts.at(-1).push(body);
    }
    for (const part of parts) {
      const heads = part.filter((body) => body.matches(".section"));
      const groups = part.filter((body) => !body.matches(".section"));
      table.append(...heads, ...ordered(groups, head, direction));
    }
  };

  const turn = (head) => {
    const [first, second] = head.matches(".text") ? ["ascending", "descending"] : ["descending", "ascending"];
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? first : now === first ? second : "none";
    for (const other of all("[aria-sort]", head.closest("tr"))) other.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    sort(head);
  };

  // What stands behind a number.

  const dialog = document.getElementById("source");
  let data;
  const known = () => (data ??= JSON.parse(document.getElementById("data").textContent));

  const text = (value) => {
    if (value === null) return "none";
    if (typeof value === "object" && !Object.keys(value).length) return "–";
    if (Array.isArray(value)) return value.map(text).join(", ");
    if (typeof value === "object") return Object.entries(value).map(([name, one]) => `${name}: ${text(one)}`).join(", ");
    return String(value);
  };

  const list = (pairs) => {
    const items = make("dl", { class: "facts" });
    for (const [name, value] of pairs) items.append(make("dt", {}, name), make("dd", {}, value));
    return items;
  };

  const run = (number, open) => {
    const { values, runs } = known();
    const [path, names, numbers, before] = runs[number];
    const facts = values[names].map((name, i) => [name, text(values[numbers[i]])]);
    const item = make("details", open ? { open: "" } : {}, make("summary", {}, make("code", {}, path)));
    if (facts.length) item.append(list([["record", `${path}/run.json`], ...facts]));
    else item.append(make("p", { class: "absent" }, "This run has not been finished."));
    if (before.length) {
      item.append(make("p", { class: "caption" }, "It starts from:"), ...before.map((one) => run(one, false)));
    }
    return item;
  };

  const number = (value) => (value === null ? "–" : value.toLocaleString("en", { maximumFractionDigits: 4, useGrouping: false }));

  const entry = (position) => {
    const { values, entries } = known();
    const [facts, columns, seeds, runs] = entries[position];
    const row = (kind, items) => make("tr", {}, ...items.map((item, i) => make(i ? kind : "th", i ? {} : { scope: kind === "th" ? "col" : "row" }, item)));
    const table = make("table", { class: "plain" },
      make("thead", {}, row("th", ["seed", "status", ...values[columns]])),
      make("tbody", {}, ...seeds.map(([seed, status, ...rest]) => row("td", [`${seed}`, status, ...rest.map(number)]))));
    return [
      list(facts.map((one) => values[one])),
      make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": "Seeds" }, table),
      make("h3", {}, "Runs"),
      ...runs.map((one) => run(one, runs.length === 1)),
    ];
  };

  const open = (button) => {
    const part = button.closest("section").querySelector("h2").textContent;
    const isRun = "run" in button.dataset;
    dialog.querySelector("h2").textContent = isRun ? "Run" : `${part}: ${button.textContent.trim()}`;
    dialog.querySelector(".body").replaceChildren(
      ...(isRun ? [run(Number(button.dataset.run), true)] : entry(Number(button.dataset.entry))));
    dialog.showModal();
    dialog.scrollTop = 0;
  };

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("button.open"), sorter = event.target.closest("button.sort");
    if (opener) open(opener);
    else if (sorter) turn(sorter.closest("th"));
    else if (event.target === dialog) dialog.close();
  });

  // The list of runs.

  const filter = document.getElementById("filter");
  const showRuns = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = all("#runs > tbody > tr");
    for (const row of rows) {
      const line = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => line.includes(word));
    }
    const left = rows.filter((row) => !row.hidden).length;
    filter.closest("p").querySelector("output").textContent = words.length ? `${left} of ${rows.length} runs` : "";
  };
  if (filter) {
    filter.closest("p").hidden = false;
    filter.addEventListener("input", showRuns);
  }

  if (document.querySelector("[data-test]")) {
    controls.hidden = false;
    controls.addEventListener("change", showTest);
    controls.addEventListener("submit", (event) => event.preventDefault());
    showTest();
  }
})();
