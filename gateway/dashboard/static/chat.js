// The page to try a turn: sends it as any client would, streams the answer, then asks why.
"use strict";

const byId = (id) => document.getElementById(id);
let conversation = newName();
let history = []; // what an unnamed conversation resends
let isFirst = true;
let running = null; // AbortController of the turn under way

function newName() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return "chat-" + Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function startAnew() {
  conversation = newName();
  history = [];
  isFirst = true;
  byId("turns").replaceChildren();
  byId("empty").hidden = false;
  byId("why-body").replaceChildren();
  byId("why-empty").hidden = false;
  showName();
}

function showName() {
  byId("conversation").textContent = byId("remember").checked ? conversation : "not stored; the page resends it";
}

async function listModels() {
  const select = byId("model");
  for (const option of [...select.options].slice(3)) option.remove();
  if (!keyInUse()) return;
  try {
    const models = await callJson("v1/models");
    for (const model of models.data) {
      if (!model.id.startsWith("auto")) select.append(element("option", { text: model.id }));
    }
  } catch {
    // The list is a convenience; the turn itself will say what is wrong.
  }
}

function outgoing(text) {
  const system = byId("system").value.trim();
  const messages = [{ role: "user", content: text }];
  if (!byId("remember").checked) messages.unshift(...history);
  if (system && (isFirst || !byId("remember").checked)) messages.unshift({ role: "system", content: system });
  return messages;
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let kept = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    kept += value;
    let end;
    while ((end = kept.indexOf("\n\n")) >= 0) {
      const lines = kept.slice(0, end).split("\n");
      kept = kept.slice(end + 2);
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data) yield data;
    }
  }
}

// What the model will be shown, asked before the turn; null for the first turn of a conversation.
async function contextOf(text) {
  if (!byId("remember").checked || isFirst) return null;
  try {
    return await callJson(`v1/conversations/${encodeURIComponent(conversation)}/context`, { body: { input: text } });
  } catch {
    return null;
  }
}

async function ask(text) {
  const shown = showTurn(text);
  const turn = { text, answer: "", sentAt: performance.now() };
  turn.context = await contextOf(text);
  const body = {
    model: byId("model").value,
    messages: outgoing(text),
    stream: true,
    stream_options: { include_usage: true },
    max_completion_tokens: Number(byId("limit").value) || 128,
  };
  const headers = byId("remember").checked ? { "x-turnwise-conversation-id": conversation } : {};
  running = new AbortController();
  turn.sentAt = performance.now();
  const live = showLive(turn, shown);
  try {
    const answer = await call("v1/chat/completions", { body, headers, signal: running.signal });
    turn.headers = answer.headers;
    turn.requestId = answer.headers.get("x-request-id");
    explainSoFar(turn);
    await take(answer.body, turn, shown);
    isFirst = false;
    history.push({ role: "user", content: text }, { role: "assistant", content: turn.answer });
  } catch (error) {
    if (error.name === "AbortError") {
      isFirst = false;
      turn.isStopped = true;
    } else {
      turn.error = error;
      turn.requestId = turn.requestId || error.requestId;
      shown.item.append(problem(error));
    }
  } finally {
    running = null;
    live.stop();
    turn.totalMs = performance.now() - turn.sentAt;
    shown.said.classList.remove("waiting");
    shown.item.append(summary(turn));
    explain(turn);
  }
}

async function take(body, turn, shown) {
  let isDone = false;
  for await (const data of events(body)) {
    if (data === "[DONE]") {
      isDone = true;
      continue;
    }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(200, chunk, turn.requestId);
    turn.model = chunk.model || turn.model;
    turn.turnwise = chunk.turnwise || turn.turnwise;
    turn.usage = chunk.usage || turn.usage;
    const delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta;
    const piece = delta && (delta.content || (delta.tool_calls ? "[tool call]" : ""));
    if (piece) {
      turn.firstMs = turn.firstMs || performance.now() - turn.sentAt;
      turn.answer += piece;
      shown.said.append(piece);
    }
  }
  if (!isDone) throw new Error("The answer was cut off.");
}

function showTurn(text) {
  byId("empty").hidden = true;
  const said = element("div", { class: "said theirs waiting", dir: "auto" });
  const item = element("li", {}, element("div", { class: "said mine", dir: "auto", text }), said);
  byId("turns").append(item);
  item.scrollIntoView({ block: "end" });
  return { item, said };
}

// While the answer comes: what is known already, and the time that has passed.
function showLive(turn, shown) {
  const line = element("div", { class: "facts", "aria-hidden": "true" });
  shown.item.append(line);
  const header = (name) => (turn.headers ? turn.headers.get(name) : null);
  const tick = () => {
    const tier = header("x-turnwise-tier");
    line.replaceChildren(...[
      tier ? element("span", { class: "tier", text: `${tier} · ${header("x-turnwise-model")}` }) : element("span", { text: "deciding" }),
      ...[header("x-turnwise-reason"), turn.firstMs ? `first ${Math.round(turn.firstMs)} ms` : null, `${((performance.now() - turn.sentAt) / 1000).toFixed(1)} s`]
        .filter(Boolean).map((text) => element("span", { text })),
    ]);
  };
  tick();
  const timer = setInterval(tick, 100);
  return { stop: () => { clearInterval(timer); line.remove(); } };
}

function summary(turn) {
  const about = turn.turnwise || {};
  const header = (name) => (turn.headers ? turn.headers.get(name) : null);
  const cost = turn.usage && turn.usage.cost_details;
  const parts = [
    about.reason || header("x-turnwise-reason"),
    cost ? money(cost.cost_micro, cost.currency) : null,
    turn.firstMs ? `first ${Math.round(turn.firstMs)} ms` : null,
    `all ${Math.round(turn.totalMs)} ms`,
    turn.isStopped ? "stopped" : null,
  ].filter(Boolean);
  const tier = about.tier || header("x-turnwise-tier");
  return element("div", { class: "facts" },
    tier ? element("span", { class: "tier", text: `${tier} · ${turn.model || header("x-turnwise-model")}` }) : null,
    ...parts.map((text) => element("span", { text })),
    turn.requestId ? element("button", { class: "quiet", type: "button", text: "Why?", onclick: () => explain(turn) }) : null);
}

// The recorded turn. It is written when the stream is settled, so it may be a moment away.
async function recorded(requestId) {
  for (let attempt = 0; ; attempt += 1) {
    try {
      const found = await callJson(`v1/turns/${encodeURIComponent(requestId)}`);
      if (found.status !== "pending" || attempt >= 8) return found;
    } catch (error) {
      if (error.status !== 404 || attempt >= 8) return null;
    }
    await new Promise((resolve) => setTimeout(resolve, 150 + 100 * attempt));
  }
}

let explained = null;
function explainSoFar(turn) {
  explained = turn;
  byId("why-empty").hidden = true;
  byId("why-body").replaceChildren(...[decisionPart(turn), contextPart(turn)].filter(Boolean));
}

async function explain(turn) {
  explained = turn;
  byId("why-empty").hidden = true;
  if (turn.requestId && !turn.record) turn.record = await recorded(turn.requestId);
  if (explained !== turn) return;
  const parts = [decisionPart(turn), candidatesPart(turn), contextPart(turn), moneyPart(turn), timingsPart(turn)];
  byId("why-body").replaceChildren(...parts.filter(Boolean));
}

function decisionPart(turn) {
  const header = (name) => (turn.headers ? turn.headers.get(`x-turnwise-${name}`) : null);
  const about = turn.turnwise || { tier: header("tier"), reason: header("reason"), policy: header("policy"), cache: header("cache") };
  const decision = (turn.record && turn.record.decision) || {};
  const labels = decision.labels || {};
  const score = decision.score ?? about.score;
  return element("div", {},
    about.note ? element("p", { class: "note", text: about.note }) : null,
    scale(score, (turn.record && turn.record.thresholds) || decision.thresholds),
    facts([
      ["tier", about.tier || decision.tier],
      ["model", turn.model || decision.model || header("model")],
      ["reason", about.reason || decision.reason],
      ["score", typeof score === "number" ? score.toFixed(3) : null],
      ["asked for", about.requested_model],
      ["policy", about.policy || decision.policy],
      ["cache", about.cache],
      ...Object.entries(labels).map(([name, value]) => [name, shownValue(value)]),
      ["classifier", decision.classifier],
      ["left out", turn.headers && turn.headers.get("x-turnwise-degraded")],
      ["dropped", (about.dropped_params || []).join(", ")],
      ["request", turn.requestId ? element("code", { text: turn.requestId }) : null],
    ]));
}

function shownValue(value) {
  if (value === null || value === undefined) return null;
  if (typeof value === "number") return Number.isInteger(value) ? value : value.toFixed(3);
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

// P(the cheapest tier is not good enough) between 0 and 1, with the policy's thresholds as strokes.
function scale(score, thresholds) {
  if (typeof score !== "number") return null;
  const x = (value) => 4 + 292 * Math.min(1, Math.max(0, value));
  const limits = Object.values(thresholds || {}).filter((value) => typeof value === "number");
  return svg("svg", { class: "scale", viewBox: "0 0 300 26", role: "img", "aria-label": `score ${score.toFixed(2)} of 1` },
    svg("rect", { class: "rail", x: 4, y: 11, width: 292, height: 4, rx: 2 }),
    ...limits.map((limit) => svg("line", { class: "limit", x1: x(limit), x2: x(limit), y1: 3, y2: 23 })),
    svg("circle", { class: "mark", cx: x(score), cy: 13, r: 6 }));
}

function candidatesPart(turn) {
  const decision = turn.record && turn.record.decision;
  if (!decision || !(decision.candidates || []).length) return null;
  const rows = decision.candidates.map((candidate) => element("tr", {},
    element("th", { scope: "row", text: candidate.model }),
    element("td", { text: candidate.tier }),
    element("td", { text: candidate.excluded_by || "" }),
    element("td", { class: "number", text: money(candidate.estimated_cost_micro, decision.currency) })));
  return element("div", { class: "wide" }, element("table", {},
    element("caption", { text: "Candidates" }),
    element("thead", {}, element("tr", {}, ...["model", "tier", "excluded by"].map((text) => element("th", { scope: "col", text })),
      element("th", { scope: "col", class: "number", text: "at worst" }))),
    element("tbody", {}, ...rows)));
}

function contextPart(turn) {
  const context = turn.context;
  if (!context) return null;
  const recalled = context.parts.recalled || [];
  return element("div", {}, element("h3", { text: "Context before this turn" }),
    facts([
      ["tokens", count(context.tokens)],
      ["summary", context.parts.summary ? shownValue(context.parts.summary) : "none"],
      ["recalled", `${recalled.length} items`],
      ["recent", `${(context.parts.recent || []).length} items`],
      ["left out", Array.isArray(context.left_out) ? context.left_out.length : shownValue(context.left_out)],
    ]),
    element("details", {}, element("summary", { class: "note", text: "The messages" }),
      ...context.messages.map((message) => element("p", { class: "note", dir: "auto",
        text: `${message.role}: ${typeof message.content === "string" ? message.content : JSON.stringify(message.content)}` }))));
}

function moneyPart(turn) {
  const usage = turn.usage;
  if (!usage) return null;
  const cost = usage.cost_details;
  return element("div", {}, element("h3", { text: "Tokens and cost" }), facts([
    ["in", count(usage.prompt_tokens)],
    ["of these cached", count(usage.prompt_tokens_details && usage.prompt_tokens_details.cached_tokens)],
    ["out", count(usage.completion_tokens)],
    ["cost", cost ? money(cost.cost_micro, cost.currency) : "price unknown"],
    ["in US dollars", cost ? money(cost.usd_micro, "USD") : null],
  ]));
}

function timingsPart(turn) {
  const timings = (turn.record && turn.record.timings_ms) || {};
  return element("div", {}, element("h3", { text: "Timings" }), facts([
    ["first token, here", turn.firstMs ? `${turn.firstMs.toFixed(0)} ms` : null],
    ["all, here", `${turn.totalMs.toFixed(0)} ms`],
    ["gateway's own", turn.headers && turn.headers.get("x-turnwise-overhead-ms") ? `${turn.headers.get("x-turnwise-overhead-ms")} ms` : null],
    ...Object.entries(timings).map(([name, value]) => [name.replaceAll("_", " "), typeof value === "number" ? `${value.toFixed(2)} ms` : shownValue(value)]),
    ...((turn.record && turn.record.attempts) || []).map((attempt, index) => [`attempt ${index + 1}`, `${attempt.model} on ${attempt.backend}: ${attempt.status}`]),
  ]));
}

byId("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (!text || byId("send").disabled) return;
  byId("text").value = "";
  byId("send").disabled = true;
  byId("stop").hidden = false;
  try {
    await ask(text);
  } finally {
    byId("send").disabled = false;
    byId("stop").hidden = true;
    byId("text").focus();
  }
});
byId("text").addEventListener("keydown", (event) => {
  // isComposing: Enter that ends a word of an input method must not send it.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running && running.abort());
byId("new").addEventListener("click", () => {
  if (running) running.abort();
  startAnew();
});
byId("remember").addEventListener("change", startAnew);
document.addEventListener("key", listModels);
showName();
listModels();
