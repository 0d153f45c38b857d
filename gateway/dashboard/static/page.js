// What both pages share: the key of this tab, calls to the API, and building elements from text.
// Text reaches the page only through textContent, so nothing an answer says can become markup.
"use strict";

const KEY_NAME = "turnwise.key";

function keyInUse() {
  return sessionStorage.getItem(KEY_NAME) || "";
}

function element(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") made.textContent = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function svg(tag, given = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// An answer that is not 200 becomes this, with the contract's code and the request's id.
class ApiError extends Error {
  constructor(status, body, requestId) {
    const error = (body && body.error) || {};
    super(error.message || `The server answered ${status}.`);
    this.status = status;
    this.code = error.code || error.type || "";
    this.requestId = requestId || "";
  }
}

async function call(path, options = {}) {
  const headers = { authorization: `Bearer ${keyInUse()}`, ...(options.headers || {}) };
  if (options.body) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method: options.method || (options.body ? "POST" : "GET"),
    headers,
    body: options.body ? JSON.stringify(options.body) : undefined,
    signal: options.signal,
    cache: "no-store",
  });
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new ApiError(answer.status, body, answer.headers.get("x-request-id"));
  }
  return answer;
}

async function callJson(path, options) {
  return (await call(path, options)).json();
}

function problem(error) {
  const facts = [error.status, error.code, error.requestId].filter(Boolean).join(" · ");
  const hint = error.status === 401 ? " Paste a key above: the one that turnwise serve prints." : "";
  return element("p", { class: "problem", role: "alert" }, error.message + hint,
    facts ? element("code", { text: `  (${facts})` }) : null);
}

// Millionths of a currency unit as money, never rounded: what is shown adds up.
function money(micro, currency, minimumFractionDigits = 2) {
  if (micro === null || micro === undefined) return "unknown";
  const locale = currency === "INR" ? "en-IN" : "en-US";
  return new Intl.NumberFormat(locale, {
    style: "currency", currency: currency || "USD", minimumFractionDigits, maximumFractionDigits: 6,
  }).format(micro / 1e6);
}

function count(number) {
  return number === null || number === undefined ? "" : new Intl.NumberFormat("en-IN").format(number);
}

function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", { text: name }), element("dd", {}, value instanceof Node ? value : String(value)));
  }
  return list;
}

document.getElementById("key").value = keyInUse();
document.getElementById("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY_NAME, document.getElementById("key").value.trim());
  document.dispatchEvent(new CustomEvent("key"));
});
document.getElementById("key-forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY_NAME);
  document.getElementById("key").value = "";
  document.dispatchEvent(new CustomEvent("key"));
});
