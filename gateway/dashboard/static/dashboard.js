// The page of costs: GET /v1/budget and GET /v1/costs for the key of this tab, in real tables.
"use strict";

const byId = (id) => document.getElementById(id);

// Both days are included. Left empty, the API takes this month as the tenant's time zone has it:
// only the server knows which day it is there.
function query(groups) {
  const values = { group_by: groups };
  for (const name of ["from", "to", "currency", "tz"]) {
    if (byId(name).value.trim()) values[name] = byId(name).value.trim();
  }
  return new URLSearchParams(values);
}

function dayIn(moment, timeZone) {
  return new Intl.DateTimeFormat("en-CA", { timeZone }).format(moment);
}

function showRange(costs) {
  byId("from").value = dayIn(new Date(costs.from), costs.tz);
  byId("to").value = dayIn(new Date(new Date(costs.to).getTime() - 1), costs.tz);
}

const TABLES = [
  { title: "By day", groups: ["day"] },
  { title: "By tier and model", groups: ["tier", "model"] },
];

async function show() {
  if (!keyInUse()) return;
  byId("state").textContent = "Reading…";
  byId("loud").replaceChildren();
  try {
    const [budget, ...costs] = await Promise.all([
      callJson("v1/budget").catch((error) => ({ error })),
      ...TABLES.map((table) => callJson(`v1/costs?${query(table.groups.join(","))}`)),
    ]);
    const first = costs[0];
    showRange(first);
    byId("state").textContent = state(first);
    byId("loud").replaceChildren(...loud(first, budget));
    byId("figures").replaceChildren(...figures(first, budget));
    byId("tables").replaceChildren(...TABLES.map((table, index) => costsTable(table, costs[index])));
  } catch (error) {
    byId("state").textContent = "";
    byId("figures").replaceChildren();
    byId("tables").replaceChildren();
    byId("loud").replaceChildren(problem(error));
  }
}

function when(iso, timeZone) {
  return new Intl.DateTimeFormat("en-GB", { timeZone, dateStyle: "medium", timeStyle: "short" }).format(new Date(iso));
}

function state(costs) {
  const lag = costs.ledger_lag_s ? ` The ledger is ${costs.ledger_lag_s.toFixed(1)} s behind.` : "";
  return `Days of ${costs.tz}, in ${costs.currency}, as of ${when(costs.as_of, costs.tz)}.${lag}`;
}

function loud(costs, budget) {
  const lines = [];
  if (costs.unpriced_requests) {
    lines.push(element("p", { class: "problem", role: "alert",
      text: `${count(costs.unpriced_requests)} requests have no known price. They are not zero: they are missing from every amount below.` }));
  }
  if (budget.error) lines.push(problem(budget.error));
  return lines;
}

function figure(name, value, ...more) {
  return element("div", { class: "figure" }, element("span", { class: "note", text: name }), element("b", { text: value }), ...more);
}

function figures(costs, budget) {
  const total = costs.total;
  const made = [
    figure("Spent in this range", money(total.cost_micro, costs.currency)),
    figure("Requests", count(total.requests)),
    figure("Tokens in", count(total.input_tokens),
      element("span", { class: "note", text: `${count(total.cached_input_tokens)} of them cached by the provider` })),
    figure("Tokens out", count(total.output_tokens)),
  ];
  if (!budget.error) made.push(budgetFigure(budget, costs.tz));
  return made;
}

function budgetFigure(budget, tz) {
  const spent = money(budget.settled_micro, budget.currency);
  if (budget.limit_micro === null || budget.limit_micro === undefined) {
    return figure("Budget", "none set", element("span", { class: "note", text: "nothing is refused for money" }));
  }
  const used = budget.settled_micro + budget.reserved_micro;
  return figure(`Budget of the ${budget.period}`, `${spent} of ${money(budget.limit_micro, budget.currency)}`,
    element("progress", { max: budget.limit_micro, value: used, "aria-label": "budget used" }),
    element("span", { class: "note", text: `${money(budget.reserved_micro, budget.currency)} held for turns under way; starts anew ${when(budget.resets_at, tz)}` }));
}

const NUMBERS = [
  ["requests", "requests"],
  ["input_tokens", "tokens in"],
  ["cached_input_tokens", "cached"],
  ["output_tokens", "tokens out"],
];

function costsTable(table, costs) {
  if (!costs.rows.length) return element("p", { class: "note", text: `${table.title}: nothing in this range.` });
  const most = Math.max(1, ...costs.rows.map((row) => row.cost_micro || 0));
  const columns = [
    ...table.groups.map((text) => element("th", { scope: "col", text })),
    element("th", { scope: "col", class: "number", text: `cost, ${costs.currency}` }),
    element("th", { scope: "col", class: "bar" }, element("span", { class: "hidden", text: "share" })),
    ...NUMBERS.map(([, text]) => element("th", { scope: "col", class: "number", text })),
  ];
  return element("div", { class: "wide", tabindex: 0 }, element("table", {},
    element("caption", { text: table.title }),
    element("thead", {}, element("tr", {}, ...columns)),
    element("tbody", {}, ...costs.rows.map((row) => costRow(row, table.groups, costs.currency, most))),
    element("tfoot", {}, totalRow(table.groups, costs))));
}

function costRow(row, groups, currency, most) {
  const width = Math.round((100 * (row.cost_micro || 0)) / most);
  return element("tr", {},
    ...groups.map((name) => element("th", { scope: "row", text: row[name] ?? "none" })),
    element("td", { class: "number", text: money(row.cost_micro, currency, 6) }),
    element("td", { class: "bar" }, svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
      svg("rect", { width, height: 10 }))),
    ...NUMBERS.map(([name]) => element("td", { class: "number", text: count(row[name]) })));
}

function totalRow(groups, costs) {
  return element("tr", {},
    element("th", { scope: "row", colspan: groups.length, text: "total" }),
    element("td", { class: "number", text: money(costs.total.cost_micro, costs.currency, 6) }),
    element("td", { class: "bar" }),
    ...NUMBERS.map(([name]) => element("td", { class: "number", text: count(costs.total[name]) })));
}

byId("range").addEventListener("submit", (event) => {
  event.preventDefault();
  show();
});
document.addEventListener("key", show);
show();
