// SPDX-License-Identifier: Apache-2.0
// Sorts and filters tables; draws what was alive over time. All text goes in as text, never as markup.
"use strict";
(() => {
  const make = (name, attributes = {}, ...children) => {
    const found = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  };
  const draw = (name, attributes = {}, ...children) => {
    const found = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
    found.append(...children);
    return found;
  };

  // tables

  const keyOf = (row, at, isNumber) => {
    const cell = row.cells[at];
    if (cell.classList.contains("gap")) return null;
    return isNumber ? Number(cell.dataset.value) : cell.textContent;
  };
  const sort = (table, head, at) => {
    const isNumber = head.dataset.kind === "number";
    const first = isNumber ? "descending" : "ascending";
    const other = isNumber ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...table.tBodies[0].rows].map(row => [keyOf(row, at, isNumber), row]);
    rows.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null); // gaps are last either way
      return sign * (isNumber ? a - b : a.localeCompare(b, "en", { numeric: true }));
    });
    for (const each of table.tHead.rows[0].cells) each.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    table.tBodies[0].append(...rows.map(([, row]) => row));
  };
  const enliven = table => {
    [...table.tHead.rows[0].cells].forEach((head, at) => {
      const button = make("button", { type: "button" }, head.textContent || "\u2195");
      button.addEventListener("click", () => sort(table, head, at));
      head.replaceChildren(button);
    });
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 4) return;
    const count = make("span", { role: "status" });
    const input = make("input", { type: "search", autocomplete: "off" });
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
      }
      const left = rows.filter(row => !row.hidden).length;
      count.textContent = words.length ? `${left} of ${rows.length} rows` : "";
    });
    const label = make("label", {}, `Filter ${table.caption.textContent.replace(/ \(.*/, "")}: `, input);
    table.parentElement.before(make("div", { class: "filter" }, label, count));
  };
  document.querySelectorAll("table").forEach(enliven);

  // what is folded away is printed too
  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = [...document.querySelectorAll("details:not([open])")];
    for (const each of unfolded) each.open = true;
  });
  addEventListener("afterprint", () => { for (const each of unfolded) each.open = false; });

  // time

  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = document.getElementById("charts");
  if (!charts) return;
  const whole = Math.max(data.duration, 1);
  const ROW = 18, HIGH = 120, AXIS = 22, LEFT = 74, RIGHT = 8;
  let view = { from: 0, to: whole };
  let chosen = -1;

  const units = [["s", 1e9], ["ms", 1e6], ["us", 1e3], ["ns", 1]];
  const timeText = (ns, step) => {
    const [unit, size] = units.find(([, each]) => view.to >= each) || units[3];
    const digits = Math.max(0, -Math.floor(Math.log10(step / size) + 1e-9));
    return `+${(ns / size).toFixed(Math.min(digits, 9))}${unit}`;
  };
  const wallClock = ns => data.began_ms === null
    ? "" : `, ${new Date(data.began_ms + ns / 1e6).toISOString().replace("T", " ").replace("Z", " UTC")}`;
  const stepOf = (span, most) => {
    const rough = span / most, power = 10 ** Math.floor(Math.log10(rough));
    return Math.max(1, power * [1, 2, 5, 10].find(each => each * power >= rough));
  };

  const level = draw("svg", { height: HIGH + AXIS, role: "application", tabindex: 0 });
  const lanes = draw("svg", { role: "application", tabindex: 0 });
  const told = make("output", {}, "Drag over a part to zoom to it, or pinch; with the keyboard: + - 0 and arrows.");
  const shown = make("span", { role: "status" });
  const width = () => Math.max(level.clientWidth, 240);
  const xOf = ns => LEFT + (ns - view.from) / (view.to - view.from) * (width() - LEFT - RIGHT);
  const nsOf = x => view.from + (x - LEFT) / (width() - LEFT - RIGHT) * (view.to - view.from);
  const clip = x => Math.min(Math.max(x, LEFT), width() - RIGHT);

  const drawLevel = () => {
    const parts = [], most = Math.max(1, ...data.levels.map(each => each[2])) * 1.05;
    const yOf = size => HIGH - size / most * (HIGH - 8);
    for (const [size, text] of data.marks) {
      parts.push(draw("line", { class: "grid", x1: LEFT, x2: width() - RIGHT, y1: yOf(size), y2: yOf(size) }));
      parts.push(draw("text", { class: "tick y", x: LEFT - 6, y: yOf(size) + 4 }, text));
    }
    const steps = [...data.levels, [whole]];
    const area = column => {
      let path = "";
      data.levels.forEach((each, at) => {
        const [a, b] = [clip(xOf(each[0])), clip(xOf(steps[at + 1][0]))];
        if (b > a) path += `M${a} ${HIGH}V${yOf(each[column])}H${b}V${HIGH}Z`;
      });
      return path;
    };
    parts.push(draw("path", { class: "top", d: area(2) }), draw("path", { class: "level", d: area(1) }));
    const step = stepOf(view.to - view.from, Math.max(2, width() / 110));
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      parts.push(draw("line", { class: "axis", x1: xOf(at), x2: xOf(at), y1: HIGH, y2: HIGH + 5 }));
      if (xOf(at) < width() - 20) parts.push(draw("text", { class: "tick", x: xOf(at), y: HIGH + 17 }, timeText(at, step)));
    }
    level.setAttribute("viewBox", `0 0 ${width()} ${HIGH + AXIS}`);
    level.replaceChildren(...parts);
    level.setAttribute("aria-label", "Bytes alive over time; the table Timeline has the same numbers");
  };

  const drawLives = () => {
    const inView = data.lives.map((life, at) => [life, at])
      .filter(([life]) => life.from <= view.to && (life.to === null ? whole : life.to) >= view.from);
    const parts = inView.map(([life, at], row) => {
      const a = clip(xOf(life.from)), b = clip(xOf(life.to === null ? whole : life.to));
      const group = draw("g", { class: at === chosen ? "life chosen" : "life", "data-at": at },
        draw("title", {}, life.text),
        draw("rect", { class: "room", x: 0, y: row * ROW, width: width(), height: ROW }),
        draw("rect", { class: life.kind, x: a, y: row * ROW + 3, width: Math.max(b - a, 2), height: ROW - 6, rx: 2 }),
        draw("text", { x: LEFT - 6, y: row * ROW + 13, "text-anchor": "end" }, String(life.inode)));
      const text = life.label.replace(/^\S+ /, "");
      if (b + text.length * 6 < width()) group.append(draw("text", { x: b + 5, y: row * ROW + 13 }, text));
      else if (a - text.length * 6 > LEFT) group.append(draw("text", { x: a - 5, y: row * ROW + 13, "text-anchor": "end" }, text));
      else group.append(draw("text", { class: "inside", x: a + 5, y: row * ROW + 13 }, text));
      return group;
    });
    const tall = Math.max(inView.length, 1) * ROW;
    lanes.setAttribute("height", tall);
    lanes.setAttribute("viewBox", `0 0 ${width()} ${tall}`);
    lanes.replaceChildren(...parts);
    lanes.setAttribute("aria-label", "Lifetimes of buffers; arrow keys choose one, plus and minus zoom");
    const span = view.to - view.from, step = stepOf(span, 100);
    shown.textContent = `${inView.length} of ${data.lives.length} lives from ${timeText(view.from, step)} to ${timeText(view.to, step)}`;
  };

  let isDue = false;
  const redraw = () => {
    if (isDue) return;
    isDue = true;
    requestAnimationFrame(() => { isDue = false; drawLevel(); drawLives(); });
  };
  const look = (from, to) => {
    const span = Math.min(Math.max(to - from, Math.min(1000, whole)), whole);
    const start = Math.min(Math.max(from, 0), whole - span);
    view = { from: start, to: start + span };
    redraw();
  };
  const zoom = (factor, about = (view.from + view.to) / 2) =>
    look(about - (about - view.from) * factor, about + (view.to - about) * factor);
  const pan = part => look(view.from + part * (view.to - view.from), view.to + part * (view.to - view.from));

  const choose = at => {
    chosen = at;
    const life = data.lives[at];
    told.textContent = life.text + `; from ${timeText(life.from, 1e6)}` +
      (life.to === null ? " on" : ` to ${timeText(life.to, 1e6)}`) + wallClock(life.from);
    const end = life.to === null ? whole : life.to;
    if (life.from > view.to || end < view.from) look(life.from - (end - life.from), end + (end - life.from));
    redraw();
    requestAnimationFrame(() => {
      const box = lanes.parentElement, mine = lanes.querySelector(".chosen rect");
      const y = mine ? Number(mine.getAttribute("y")) : 0;
      if (y < box.scrollTop || y > box.scrollTop + box.clientHeight - ROW) box.scrollTop = y - box.clientHeight / 2;
    });
  };
  const keys = {
    "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => look(0, whole),
    ArrowLeft: () => pan(-0.25), ArrowRight: () => pan(0.25),
    ArrowDown: () => choose(Math.min(chosen + 1, data.lives.length - 1)),
    ArrowUp: () => choose(Math.max(chosen - 1, 0)),
  };

  // a mouse marks a part of the time to zoom to; one finger moves along, two zoom
  const listen = svg => {
    const touches = new Map();
    let begin = null;
    const at = event => event.clientX - svg.getBoundingClientRect().left;
    svg.addEventListener("keydown", event => {
      if (!keys[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      keys[event.key]();
    });
    svg.addEventListener("wheel", event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoom(event.deltaY > 0 ? 1.25 : 0.8, nsOf(at(event)));
    }, { passive: false });
    svg.addEventListener("pointerdown", event => {
      touches.set(event.pointerId, at(event));
      if (event.pointerType === "mouse" && event.button === 0) begin = at(event);
    });
    svg.addEventListener("pointermove", event => {
      const x = at(event);
      if (svg === level && data.levels.length) {
        const ns = nsOf(x), last = data.levels.filter(each => each[0] <= ns).pop();
        if (last && ns <= view.to) told.textContent = `${timeText(ns, stepOf(view.to - view.from, 500))}: ${last[3]}${wallClock(ns)}`;
      }
      if (begin !== null) {
        svg.querySelector(".picked")?.remove();
        const [a, b] = [clip(Math.min(begin, x)), clip(Math.max(begin, x))];
        svg.append(draw("rect", { class: "picked", x: a, y: 0, width: b - a, height: "100%" }));
      } else if (touches.has(event.pointerId)) {
        const before = touches.get(event.pointerId), others = [...touches].filter(([id]) => id !== event.pointerId);
        if (others.length) {
          const other = others[0][1];
          if (Math.abs(x - other) > 8) zoom(Math.abs(before - other) / Math.abs(x - other), nsOf(other));
        } else look(view.from + nsOf(before) - nsOf(x), view.to + nsOf(before) - nsOf(x));
        touches.set(event.pointerId, x);
      }
    });
    const over = event => {
      touches.delete(event.pointerId);
      svg.querySelector(".picked")?.remove();
      const from = begin, to = at(event);
      begin = null;
      if (from === null || event.type !== "pointerup" || Math.abs(to - from) < 6) return;
      look(nsOf(clip(Math.min(from, to))), nsOf(clip(Math.max(from, to))));
    };
    for (const name of ["pointerup", "pointercancel", "pointerleave"]) svg.addEventListener(name, over);
    svg.addEventListener("click", event => {
      const life = event.target.closest?.("[data-at]");
      if (life) choose(Number(life.dataset.at));
    });
  };

  const button = (text, label, does) => {
    const found = make("button", { type: "button", "aria-label": label, title: label }, text);
    found.addEventListener("click", does);
    return found;
  };
  const kinds = { alive: "alive at the end", older: "alive, made before the trace", released: "released", "release-lost": "release lost" };
  const legend = Object.entries(kinds)
    .filter(([kind]) => data.lives.some(life => life.kind === kind))
    .map(([kind, text]) => make("span", {}, draw("svg", {}, draw("rect", { class: kind, width: 12, height: 12 })), text));
  charts.replaceChildren(
    make("div", { class: "zoom" },
      button("+", "Zoom in", () => zoom(0.5)), button("\u2212", "Zoom out", () => zoom(2)),
      button("\u2190", "Earlier", () => pan(-0.5)), button("\u2192", "Later", () => pan(0.5)),
      button("All", "Show all", () => look(0, whole)), shown),
    told, level, make("div", { class: "legend" }, ...legend), make("div", { class: "rows" }, lanes));
  [level, lanes].forEach(listen);
  new ResizeObserver(redraw).observe(level);
  drawLevel();
  drawLives();
  document.addEventListener("click", event => {
    const link = event.target.closest?.("a[data-inode]");
    if (!link) return;
    event.preventDefault();
    choose(data.lives.findIndex(life => life.inode === Number(link.dataset.inode)));
    charts.scrollIntoView();
  });
})();
