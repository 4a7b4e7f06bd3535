"use strict";
// The state is the address: #q=text&status=failed&data=demo&sort=-started&runs=a,b shows the same page to whoever opens it.
const {runs, reports} = JSON.parse(document.getElementById("history").textContent);
const byId = (id) => document.getElementById(id);
const byRun = new Map(runs.map((run) => [run.run, run]));

const share = (v) => (v * 100).toFixed(1) + " %";
const bytes = (v) => (v < 1e6 ? (v / 1e3).toFixed(v < 1e4 ? 1 : 0) + " kB" : (v / 1e6).toFixed(1) + " MB");
const MEASURES = {
  teacher_top1: ["teacher top-1", share], vanilla_top1: ["vanilla twin top-1", share], fp32_top1: ["student fp32 top-1", share],
  int8_top1: ["student int8 top-1", share], int8_agreement: ["int8 agrees with teacher", share], gap_closed: ["gap closed", share],
  int8_net_lost: ["int8 net images lost", String], int8_bytes: ["int8 size", bytes], teacher_bytes: ["teacher size", bytes],
  int8_ms: ["int8 latency p50", (v) => v.toFixed(2) + " ms"], teacher_ms: ["teacher latency p50", (v) => v.toFixed(2) + " ms"],
  test_images: ["test images", String], seconds: ["time of the steps", (v) => v.toFixed(1) + " s"],
};
const show = (name, value) => (value === null || value === undefined ? "–" : MEASURES[name] ? MEASURES[name][1](value) : String(value));
const COLUMNS = [
  ["run", "run", (r) => r.run], ["status", "status", (r) => r.status], ["finished", "finished", (r) => r.finished],
  ["dataset", "data set", (r) => r.dataset], ["teacher", "teacher", (r) => r.teacher], ["student", "student", (r) => r.student],
  ["int8_top1", "int8 top-1", (r) => r.measures.int8_top1, 1], ["gap_closed", "gap closed", (r) => r.measures.gap_closed, 1],
  ["int8_agreement", "agrees", (r) => r.measures.int8_agreement, 1], ["int8_bytes", "size", (r) => r.measures.int8_bytes, 1],
  ["int8_ms", "latency", (r) => r.measures.int8_ms, 1], ["release", "release", (r) => r.release, 1],
];

function element(name, attributes, ...children) {
  const svg = ["svg", "line", "circle", "polyline", "text", "title"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {}))
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value !== null) made.setAttribute(key, value === true ? "" : value);
  made.append(...children);
  return made;
}

function readState() {
  const found = new URLSearchParams(location.hash.slice(1));
  return {
    q: found.get("q") || "", status: found.get("status") || "", data: found.get("data") || "", sort: found.get("sort") || "-run",
    runs: (found.get("runs") || "").split(",").filter((id) => byRun.has(id)),
  };
}

function go(change) {
  const state = {...readState(), ...change};
  const kept = {q: state.q, status: state.status, data: state.data, sort: state.sort === "-run" ? "" : state.sort, runs: state.runs.join(",")};
  const text = Object.entries(kept).filter(([, v]) => v).map(([k, v]) => k + "=" + encodeURIComponent(v).replaceAll("%2C", ",")).join("&");
  location.replace("#" + (text || "all")); // never a bare "#", which scrolls up; no entry in the browser's history for each key that is typed
}

function filtered(state) {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  return runs.filter((run) => {
    const text = [run.run, run.status, run.dataset, run.teacher, run.student, run.target, run.step, run.message, run.headline].join(" ").toLowerCase();
    return (!state.status || run.status === state.status) && (!state.data || run.dataset === state.data) && words.every((word) => text.includes(word));
  });
}

function sorted(found, sort) {
  const down = sort.startsWith("-");
  const column = COLUMNS.find(([key]) => key === sort.replace("-", "")) || COLUMNS[0];
  const value = (run) => column[2](run);
  const order = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
  const empty = (run) => value(run) === null || value(run) === undefined; // unknown stands last, either way
  return [...found].sort((a, b) => empty(a) - empty(b) || (down ? order(b, a) : order(a, b)));
}

const toggle = (id) => { const chosen = readState().runs; go({runs: chosen.includes(id) ? chosen.filter((one) => one !== id) : [...chosen, id]}); };

function drawList(found, state) {
  const sign = (key) => (state.sort === key ? "ascending" : state.sort === "-" + key ? "descending" : "none");
  const head = COLUMNS.map(([key, title, , number]) => element("th", {"aria-sort": sign(key), class: number ? "n" : ""},
    element("button", {type: "button", click: () => go({sort: readState().sort === "-" + key ? key : "-" + key})}, title)));
  byId("list").tHead.replaceChildren(element("tr", {}, element("th", {}, "compare"), ...head));
  const lines = sorted(found, state.sort).map((run) => {
    const chosen = state.runs.includes(run.run);
    const box = element("input", {type: "checkbox", "aria-label": "compare " + run.run, change: () => toggle(run.run)});
    box.checked = chosen;
    const cells = COLUMNS.map(([key, , value, number]) => {
      if (key === "run") return element("td", {}, run.report ? element("a", {href: reports + run.report}, run.run) : run.run);
      if (key === "status") return element("td", {}, element("span", {class: "status " + run.status.split(" ")[0]}, run.status),
        ...(run.message ? [element("div", {class: "why"}, (run.step ? run.step + ": " : "") + run.message)] : []));
      if (key === "finished") return element("td", {}, (run.finished || "").replace("T", " ").replace(/:\d\dZ$/, ""));
      return element("td", {class: number ? "n" : ""}, show(key, value(run)));
    });
    return element("tr", {class: chosen ? "chosen" : "", "data-run": run.run}, element("td", {}, box), ...cells);
  });
  byId("list").tBodies[0].replaceChildren(...lines);
  byId("empty").hidden = lines.length > 0;
  byId("empty").textContent = runs.length ? "No run fits the filter." : "No run yet; start one with: edgedistill run";
}

function drawCompare(state) {
  const place = byId("compare");
  place.hidden = state.runs.length === 0;
  const chosen = state.runs.map((id) => byRun.get(id));
  const table = (title, part, every) => {
    const names = [...new Set(chosen.flatMap((run) => Object.keys(run[part])))];
    const text = (run, name) => JSON.stringify(run[part][name] ?? null);
    const lines = names.map((name) => ({name, differs: chosen.some((run) => text(run, name) !== text(chosen[0], name))})).filter((line) => every || line.differs);
    if (!lines.length) return element("p", {class: "quiet"}, title + ": none");
    const head = element("tr", {}, element("th", {}, title), ...chosen.map((run) => element("th", {}, run.run)));
    const body = lines.map(({name, differs}) => element("tr", {class: differs && every ? "differs" : ""},
      element("td", {}, MEASURES[name] ? MEASURES[name][0] : name), ...chosen.map((run) => element("td", {}, show(name, run[part][name])))));
    return element("div", {class: "wide"}, element("table", {"data-part": part}, element("thead", {}, head), element("tbody", {}, ...body)));
  };
  place.replaceChildren(element("h2", {}, "Comparison"), table("measures", "measures", true), table("settings that differ", "settings"), table("inputs that differ", "inputs"));
}

function chart(title, xTitle, series, xShow, yShow) {
  const width = 400, height = 240, left = 48, right = 12, top = 10, bottom = 36;
  const points = series.flatMap((one) => one.points);
  const picture = element("svg", {viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title});
  if (!points.length) return element("figure", {}, element("figcaption", {}, title), element("p", {class: "quiet"}, "nothing to draw"));
  const range = (values, lowest, highest) => {
    const low = Math.min(...values), high = Math.max(...values), margin = (high - low) * 0.08 || Math.abs(high) * 0.05 || 1;
    return [Math.max(lowest, low - margin), Math.min(highest, high + margin)];
  };
  const [x0, x1] = range(points.map((p) => p.x), 0, Infinity), [y0, y1] = range(points.map((p) => p.y), 0, 1);
  const x = (v) => left + ((v - x0) / (x1 - x0 || 1)) * (width - left - right), y = (v) => height - bottom - ((v - y0) / (y1 - y0 || 1)) * (height - top - bottom);
  for (let i = 0; i <= 4; i++) {
    const v = y0 + ((y1 - y0) * i) / 4;
    picture.append(element("line", {class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v)}), element("text", {x: left - 6, y: y(v) + 4, "text-anchor": "end"}, yShow(v)));
  }
  for (const i of [0, 1, 2]) picture.append(element("text", {x: x(x0 + ((x1 - x0) * i) / 2), y: height - bottom + 16, "text-anchor": ["start", "middle", "end"][i]}, xShow(x0 + ((x1 - x0) * i) / 2)));
  picture.append(element("text", {x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle"}, xTitle));
  const chosen = readState().runs;
  for (const one of series) {
    if (one.line) picture.append(element("polyline", {class: "line c" + one.colour, points: one.points.map((p) => x(p.x).toFixed(1) + "," + y(p.y).toFixed(1)).join(" ")}));
    for (const p of one.points) picture.append(element("circle", {class: "dot pick c" + one.colour + (chosen.includes(p.run) ? " on" : ""), cx: x(p.x).toFixed(1), cy: y(p.y).toFixed(1), r: series.length > 1 && runs.length > 60 ? 2.5 : 4, click: () => toggle(p.run)},
      element("title", {}, `${one.name} of ${p.run}: ${yShow(p.y)}, ${xShow(p.x)}`)));
  }
  return element("figure", {}, element("figcaption", {}, title), picture);
}

function drawCharts(found) {
  const points = (name, x) => found.filter((run) => run.measures[name] != null && x(run) != null).map((run) => ({x: x(run), y: run.measures[name], run: run.run}));
  const time = (run) => (run.finished ? Date.parse(run.finished) : null);
  const day = (v) => new Date(v).toISOString().slice(5, 16).replace("T", " ");
  const kinds = [["int8 student", "int8_top1", 0], ["vanilla twin", "vanilla_top1", 1], ["teacher", "teacher_top1", 2]];
  const percent = (v) => (v * 100).toFixed(1) + "%";
  byId("charts").replaceChildren(
    chart("top-1 over time", "finished (UTC)", kinds.map(([name, key, colour]) => ({name, colour, line: true, points: points(key, time)})), day, percent),
    chart("int8 top-1 against size", "size", [{name: "int8 student", colour: 0, points: points("int8_top1", (run) => run.measures.int8_bytes)}], bytes, percent),
    chart("int8 top-1 against latency", "latency p50, ms", [{name: "int8 student", colour: 0, points: points("int8_top1", (run) => run.measures.int8_ms)}], (v) => v.toFixed(2), percent));
}

function options(select, title, values, current) {
  select.replaceChildren(element("option", {value: ""}, title), ...[...new Set(values)].sort().map((value) => element("option", {value}, value)));
  select.value = current;
}

function draw() {
  const state = readState(), found = filtered(state);
  if (document.activeElement !== byId("q")) byId("q").value = state.q;
  options(byId("status"), "every status", runs.map((run) => run.status), state.status);
  options(byId("data"), "every data set", runs.map((run) => run.dataset), state.data);
  byId("count").textContent = found.length === runs.length ? `${runs.length} runs` : `${found.length} of ${runs.length} runs`;
  byId("plots").hidden = !runs.length;
  drawCompare(state);
  drawCharts(found);
  drawList(found, state);
}

byId("q").addEventListener("input", () => go({q: byId("q").value}));
byId("status").addEventListener("change", () => go({status: byId("status").value}));
byId("data").addEventListener("change", () => go({data: byId("data").value}));
byId("clear").addEventListener("click", () => { byId("q").value = ""; go({q: "", status: "", data: "", sort: "-run", runs: []}); });
addEventListener("hashchange", draw);
draw();
