"use strict";
// Sorting and filtering of tables, series that can be switched off, words beside the pointer. All of the page can be
// read without this script. A view can be linked to: #table=runs&sort=-test_top1&filter=group&hide=0,3 (the table
// is "results" when none is named; "-" sorts downwards).
(() => {
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const make = (name, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  };
  const number = (text) => (text === undefined ? NaN : Number(text));

  // --- tables -------------------------------------------------------------------------------------------------------
  const tables = new Map();

  class SortedTable {
    constructor(table) {
      this.name = table.id.slice(2);
      this.body = table.tBodies[0];
      this.heads = all("thead th", table);
      this.rows = [...this.body.rows];
      this.sorted = "";
      this.wanted = "";
      for (const [index, head] of this.heads.entries()) {
        const button = make("button", { type: "button", title: "sort" }, ...head.childNodes);
        head.append(button);
        button.addEventListener("click", () => this.sort(this.next(index), true));
      }
      if (this.rows.length > 3) this.addFilter(table);
    }

    addFilter(table) {
      this.input = make("input", { type: "search", placeholder: "all words must occur" });
      this.count = make("span");
      this.count.setAttribute("aria-live", "polite");
      const label = make("label", {}, "Filter rows: ", this.input);
      table.parentElement.before(make("div", { className: "filter" }, label, this.count));
      this.input.addEventListener("input", () => this.filter(this.input.value, true));
    }

    next(index) {
      const key = this.heads[index].dataset.key;
      return this.sorted === key ? `-${key}` : key;
    }

    sort(wanted, told) {
      const falling = wanted.startsWith("-");
      const key = falling ? wanted.slice(1) : wanted;
      const column = this.heads.findIndex((head) => head.dataset.key === key);
      if (column < 0) return;
      const numeric = this.heads[column].classList.contains("n");
      const value = (row) => (numeric ? number(row.cells[column].dataset.v) : row.cells[column].textContent);
      const sign = falling ? -1 : 1;
      const compare = (first, second) => {
        if (!numeric) return sign * first.localeCompare(second, "en", { numeric: true });
        // rows without a number stay below, whichever way
        if (Number.isNaN(first) || Number.isNaN(second)) return Number.isNaN(first) - Number.isNaN(second);
        return sign * (first - second);
      };
      const keyed = this.rows.map((row) => [value(row), row]);
      keyed.sort((first, second) => compare(first[0], second[0]));
      this.body.append(...keyed.map((pair) => pair[1]));
      for (const head of this.heads) head.removeAttribute("aria-sort");
      this.heads[column].setAttribute("aria-sort", falling ? "descending" : "ascending");
      this.sorted = wanted;
      if (told) remember(this);
    }

    filter(text, told) {
      const words = text.toLowerCase().split(/\s+/).filter(Boolean);
      let kept = 0;
      for (const row of this.rows) {
        const content = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
        row.hidden = !words.every((word) => content.includes(word));
        kept += !row.hidden;
      }
      this.wanted = text;
      if (this.input) {
        if (this.input.value !== text) this.input.value = text;
        this.count.textContent = words.length ? `${kept} of ${this.rows.length} rows` : "";
      }
      if (told) remember(this);
    }
  }

  // --- series -------------------------------------------------------------------------------------------------------
  const hidden = new Set();

  const show = () => {
    for (const element of all("[data-s]")) {
      if (!element.closest(".legend")) element.classList.toggle("off", hidden.has(element.dataset.s));
    }
    for (const button of all(".legend button")) button.setAttribute("aria-pressed", !hidden.has(button.parentElement.dataset.s));
  };

  for (const item of all(".legend li")) {
    const button = make("button", { type: "button", title: "show or hide" }, ...item.childNodes);
    item.append(button);
    button.setAttribute("aria-pressed", "true");
    button.addEventListener("click", () => {
      const series = item.dataset.s;
      if (!hidden.delete(series)) hidden.add(series);
      show();
      remember();
    });
  }

  // --- words beside the pointer -------------------------------------------------------------------------------------
  const tip = make("div", { className: "tip off" });
  tip.setAttribute("role", "status");
  document.body.append(tip);
  const names = new Map(all(".legend li").map((item) => [item.dataset.s, item.textContent]));

  const tell = (text, event) => {
    tip.classList.toggle("off", !text);
    if (!text) return;
    tip.textContent = text;
    const right = event.clientX + 14 + tip.offsetWidth < window.innerWidth;
    tip.style.left = `${right ? event.clientX + 14 : Math.max(0, event.clientX - tip.offsetWidth - 10)}px`;
    tip.style.top = `${Math.max(0, event.clientY - tip.offsetHeight - 8)}px`;
  };

  const vertices = (line) => {
    if (!line.points) {
      const numbers = line.getAttribute("d").match(/[MLHV]|-?[\d.]+/g) || [];
      line.points = [];
      let [x, y, pen] = [0, 0, "M"];
      for (let at = 0; at < numbers.length; at++) {
        if (/[MLHV]/.test(numbers[at])) { pen = numbers[at]; continue; }
        if (pen === "H") { x = Number(numbers[at]); continue; }
        if (pen === "V") y = Number(numbers[at]);
        else { x = Number(numbers[at]); y = Number(numbers[++at]); }
        line.points.push([x, y]);
      }
    }
    return line.points;
  };

  const inverse = (ends, share) => {
    const [low, high, kind] = ends.split(" ");
    if (kind === "log") return low * (high / low) ** share;
    const value = Number(low) + share * (high - low);
    return kind === "whole" ? Math.round(value) : value;
  };

  const nearest = (plot, x, y) => {
    let best = [24 ** 2, null, null];
    for (const line of all("path.line:not(.off)", plot)) {
      for (const point of vertices(line)) {
        const distance = (point[0] - x) ** 2 + (point[1] - y) ** 2;
        if (distance < best[0]) best = [distance, line, point];
      }
    }
    return best;
  };

  const brief = (value) => String(Number(value.toPrecision(4)));

  const place = (drawing, event) => {
    const box = drawing.getBoundingClientRect();
    const scale = drawing.viewBox.baseVal.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };

  for (const plot of all("svg.plot")) {
    const [left, right, bottom, top] = plot.dataset.frame.split(" ").map(Number);
    plot.addEventListener("pointermove", (event) => {
      const word = event.target.closest("circle")?.querySelector("title");
      if (word) { tell(word.textContent, event); return; }
      const [, line, point] = nearest(plot, ...place(plot, event));
      if (!line) { tell("", event); return; }
      const x = inverse(plot.dataset.x, (point[0] - left) / (right - left));
      const y = inverse(plot.dataset.y, (bottom - point[1]) / (bottom - top));
      tell(`${names.get(line.dataset.s)}: ${brief(x)}, about ${brief(y)}`, event);
    });
    plot.addEventListener("pointerleave", (event) => tell("", event));
  }
  for (const drawing of all("svg.lines")) {
    drawing.addEventListener("pointermove", (event) => {
      const run = event.target.closest("path.run");
      for (const other of all("path.on", drawing)) if (other !== run) other.classList.remove("on");
      run?.classList.add("on");
      tell(run ? run.dataset.t : "", event);
    });
    drawing.addEventListener("pointerleave", (event) => tell("", event));
  }

  // --- the view in the address --------------------------------------------------------------------------------------
  const remember = (table) => {
    const view = new URLSearchParams();
    const shown = table || [...tables.values()].find((one) => one.sorted || one.wanted);
    if (shown && shown.name !== "results") view.set("table", shown.name);
    if (shown?.sorted) view.set("sort", shown.sorted);
    if (shown?.wanted) view.set("filter", shown.wanted);
    if (hidden.size) view.set("hide", [...hidden].sort().join(","));
    history.replaceState(null, "", `#${view}`);
  };

  const recall = () => {
    if (!location.hash.includes("=")) return;
    const view = new URLSearchParams(location.hash.slice(1));
    const table = tables.get(view.get("table") || "results");
    if (view.get("sort")) table?.sort(view.get("sort"));
    if (view.has("filter")) table?.filter(view.get("filter"));
    hidden.clear();
    for (const series of (view.get("hide") || "").split(",").filter(Boolean)) hidden.add(series);
    show();
  };

  for (const table of all("main table")) tables.set(table.id.slice(2), new SortedTable(table));
  window.addEventListener("hashchange", recall);
  recall();
})();
