// Draws each chart from the table beside it, and shows how far an export is.
"use strict";

const charts = new Map(); // figure -> uPlot

function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A day stands at its noon UTC, so that no zone moves it to its neighbour.
function moment(text) {
  return Date.parse(text.length === 10 ? text + "T12:00:00Z" : text) / 1000;
}

function columns(table) {
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...table.tBodies[0].rows];
  const series = heads.map((head, at) => ({ at, label: head.textContent, kind: head.dataset.series })).filter((one) => one.kind);
  const xs = rows.map((row) => moment(row.cells[0].dataset.x));
  const ys = series.map((one) => rows.map((row) => {
    const value = row.cells[one.at].dataset.y;
    return value === undefined || value === "" ? null : Number(value);
  }));
  return { rows, series, data: [xs, ...ys] };
}

const strokes = { bars: "--bar", line: "--bar", second: "--base", limit: "--bad", dashed: "--base" };

function lineOf(one) {
  const stroke = css(strokes[one.kind]);
  if (one.kind === "bars") {
    return { label: one.label, stroke, fill: stroke, width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.68, 34], radius: 0.12 }) };
  }
  return { label: one.label, stroke, width: one.kind === "line" ? 2 : 1.5, dash: one.kind === "dashed" || one.kind === "limit" ? [5, 4] : [], points: { show: false }, spanGaps: true };
}

function amount(value, figure) {
  const { currency, unit } = figure.dataset;
  if (!currency) return new Intl.NumberFormat("en", { maximumSignificantDigits: 3 }).format(value) + (unit ? " " + unit : "");
  return new Intl.NumberFormat(currency === "INR" ? "en-IN" : "en-US", { style: "currency", currency, maximumSignificantDigits: 3, notation: Math.abs(value) >= 1e5 ? "compact" : "standard" }).format(value);
}

function dayName(seconds) {
  return new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

// Marks stand under days that the table has, as many as there is room for.
function dayTicks(xs, low, high, width) {
  const step = Math.max(1, Math.ceil((((high - low) / 86400) * 64) / width));
  return xs.filter((x, at) => (xs.length - 1 - at) % step === 0);
}

// What each line is, by its stroke and its name.
function keyOf(series) {
  const key = document.createElement("span");
  key.className = "key";
  key.setAttribute("aria-hidden", "true");
  for (const one of series) {
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    mark.setAttribute("class", `stroke ${one.kind}`);
    mark.setAttribute("viewBox", "0 0 24 6");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
    line.setAttribute("d", "M0 3H24");
    mark.append(line);
    key.append(mark, one.label);
  }
  return key;
}

function draw(figure) {
  const table = figure.querySelector("table[data-plot]");
  const place = figure.querySelector(".plot");
  const { rows, series, data } = columns(table);
  if (charts.has(figure)) charts.get(figure).destroy();
  let readout = figure.querySelector(".readout");
  if (!readout) {
    readout = document.createElement("span");
    readout.className = "readout";
    readout.setAttribute("aria-hidden", "true");
    place.before(readout);
    if (series.length > 1) readout.before(keyOf(series));
  }
  const axis = { stroke: css("--soft"), font: "12px system-ui, sans-serif", ticks: { show: false } };
  const bars = series[0].kind === "bars";
  const few = place.clientWidth < 560;
  charts.set(figure, new uPlot({
    width: place.clientWidth,
    height: few ? 190 : 230,
    padding: [8, 26, 0, 0],
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
    legend: { show: false },
    cursor: { points: { show: false }, y: false, drag: { x: false, y: false } },
    scales: { x: { range: (plot, low, high) => {
        const room = bars ? 43200 : (high - low) * 0.025;
        return [low - room, high + room];
      } }, y: { range: (plot, low, high) => [0, (high || 1) * 1.06] } },
    axes: [
      { ...axis, grid: { show: false }, splits: (plot, at, low, high) => dayTicks(data[0], low, high, place.clientWidth), values: (plot, ticks) => ticks.map(dayName) },
      { ...axis, size: 68, space: 44, grid: { stroke: css("--line"), width: 1 }, values: (plot, ticks) => ticks.map((tick) => amount(tick, figure)) },
    ],
    series: [{}, ...series.map(lineOf)],
    hooks: {
      setCursor: [(plot) => {
        const at = plot.cursor.idx;
        readout.textContent = at === null || at === undefined ? ""
          : [rows[at].cells[0].textContent.trim(), ...series.map((one) => `${one.label} ${rows[at].cells[one.at].textContent.trim()}`)].join(" · ");
      }],
    },
  }, data, place));
}

function drawAll() {
  for (const figure of charts.keys()) if (!figure.isConnected) charts.delete(figure);
  for (const figure of document.querySelectorAll("figure.chart")) draw(figure);
}

// A long export: its rows come day by day, so the days that have come are the progress.
async function download(link) {
  const shown = link.parentElement.querySelector("progress");
  const said = link.parentElement.querySelector("[role=status]");
  const answer = await fetch(link.href);
  if (!answer.ok) {
    said.textContent = `The export failed (${answer.status}).`;
    return;
  }
  shown.max = Number(answer.headers.get("x-days")) || 1;
  shown.hidden = false;
  const days = new Set();
  const parts = [];
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    parts.push(value);
    for (const found of value.matchAll(/^\d{4}-\d\d-\d\d/gm)) days.add(found[0]);
    shown.value = days.size;
    said.textContent = `${days.size} days so far`;
  }
  const address = URL.createObjectURL(new Blob(parts, { type: "text/csv" }));
  const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"));
  const saved = document.createElement("a");
  saved.href = address;
  saved.download = name ? name[1] : "spend.csv";
  saved.click();
  URL.revokeObjectURL(address);
  shown.hidden = true;
  said.textContent = `Saved ${saved.download}`;
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-export]");
  if (!link) return;
  event.preventDefault();
  download(link);
});
let waiting = 0;
window.addEventListener("resize", () => {
  cancelAnimationFrame(waiting);
  waiting = requestAnimationFrame(drawAll);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
document.addEventListener("htmx:afterSettle", drawAll);
drawAll();

// On a narrow screen the pages' names are one row that moves: the current one is shown.
const pages = document.querySelector("nav");
const current = document.querySelector("nav [aria-current]");
if (current) pages.scrollLeft = current.offsetLeft - pages.offsetLeft - (pages.clientWidth - current.offsetWidth) / 2;
