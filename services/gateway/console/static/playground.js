// The playground: a conversation with a model. What is shown is what the next message sends.

import { snippet } from "./snippets.js";

const play = document.getElementById("playground");
const talk = document.getElementById("talk");
const form = document.getElementById("say");
const { message, system, model, key, api, stream, temperature, max_tokens: maxTokens } = form.elements;
const status = document.getElementById("status");
const send = form.querySelector("button[type=submit]");
const clear = document.getElementById("clear");
const empty = document.getElementById("talk-empty");
const DEFAULT_TEXT = "Hello, who are you?";

let turns = []; // {role, content, element}: the conversation, as shown.
let running = null; // AbortController of the call in progress.
let lastBody = null;

// ---- The request ----

const number = (field) => (field.value === "" || !field.checkValidity() ? null : Number(field.value));
const bodyOf = (text) => {
  const messages = [...(system.value.trim() ? [{ role: "system", content: system.value.trim() }] : []), ...turns.map(({ role, content }) => ({ role, content })), { role: "user", content: text }];
  const options = { temperature: number(temperature), max_completion_tokens: number(maxTokens) };
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== null));
  return { model: model.value, messages, ...given, stream: stream.checked, ...(stream.checked ? { stream_options: { include_usage: true } } : {}) };
};

// ---- The code view: the next call while a message is typed, otherwise the call that was made ----

let language = "curl";
const showCode = () => {
  const text = message.value.trim();
  const isLast = !text && lastBody !== null;
  const what = isLast ? "The last call" : "The call that Send makes";
  document.getElementById("snippet-caption").textContent = api.value === "chat" ? what : `${what}, by this API`;
  document.getElementById("snippet").textContent = snippet(language, isLast ? lastBody : bodyOf(text || DEFAULT_TEXT), play.dataset.url, api.value);
};
const tabs = [...document.querySelectorAll("[data-language]")];
const choose = (chosen) => {
  language = chosen.dataset.language;
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
  }
  document.getElementById("snippet-panel").setAttribute("aria-labelledby", chosen.id);
  showCode();
};
for (const [index, tab] of tabs.entries()) {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(index + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
}

// ---- Models of the selected key ----

const offerModels = () => {
  const permitted = new Set(JSON.parse(key.selectedOptions[0].dataset.models));
  for (const option of model.options) {
    option.hidden = !permitted.has(option.value);
    option.disabled = option.hidden;
  }
  if (model.selectedOptions[0]?.disabled ?? true) model.value = [...model.options].find((option) => !option.disabled)?.value ?? "";
  send.disabled = !model.value;
  explainModel();
};
const explainModel = () => {
  const servedBy = model.selectedOptions[0]?.dataset.servedBy;
  document.getElementById("model-hint").textContent = !model.value ? "This key may use none of the chat models." : servedBy ? `An alias: ${servedBy} answers.` : "";
};

// ---- The conversation ----

const element = (tag, className, ...children) => {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
};
const link = (href, text) => {
  const made = element("a", "", text);
  made.href = href;
  return made;
};
const isAtEnd = () => talk.scrollHeight - talk.scrollTop - talk.clientHeight < 60;
// Follow the answer only while the user is at its end.
const keepAtEnd = (change) => {
  const follows = isAtEnd();
  change();
  if (follows) talk.scrollTop = talk.scrollHeight;
};
const updateEmpty = () => {
  if (turns.length === 0 && !talk.querySelector(".turn")) talk.append(empty);
  else empty.remove();
  clear.hidden = turns.length === 0 || running !== null;
};
const addTurn = (role, content) => {
  const turn = { role, content, element: element("div", role === "user" ? "turn you" : "turn", element("b", "", role === "user" ? "You" : model.value)) };
  turn.text = element("div", "text", content);
  turn.element.append(turn.text);
  talk.append(turn.element);
  updateEmpty();
  talk.scrollTop = talk.scrollHeight;
  return turn;
};
const addThinking = (turn) => {
  turn.thinking = element("div", "text");
  turn.element.insertBefore(element("details", "thinking", element("summary", "", "Reasoning"), turn.thinking), turn.text);
};
const format = async (turn) => {
  if (!turn.content) return;
  const response = await fetch("/playground/markdown", { method: "POST", headers: { "content-type": "application/json", "x-csrf-token": play.dataset.csrf }, body: JSON.stringify(turn.content) });
  if (!response.ok) return; // The text stays as it is.
  const html = await response.text();
  keepAtEnd(() => {
    turn.text.innerHTML = html; // Sanitised by the server.
    turn.text.classList.add("formatted");
    for (const block of turn.text.querySelectorAll("pre, table")) block.tabIndex = 0;
    for (const anchor of turn.text.querySelectorAll("a")) anchor.target = "_blank";
  });
};
const note = (turn, kind, ...children) => {
  keepAtEnd(() => turn.element.append(element("p", `facts-line small ${kind}`, ...children)));
};
const receipt = (id) => (id ? [" · ", link(`/usage/requests/${id}`, id)] : []);

// ---- One call ----

class CallError extends Error {
  constructor(error, statusCode, id) {
    super(error?.message ?? "The answer could not be read.");
    Object.assign(this, { code: error?.code ?? error?.type ?? "", statusCode, id });
  }
}

const read = async (response, onEvent) => {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let isDone = false;
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") isDone = true;
      else if (line.startsWith("data: ")) onEvent(JSON.parse(line.slice(6)));
    }
  }
  if (!isDone) throw new CallError({ message: "The connection ended before the answer was complete.", code: "connection_closed" });
};

const take = (turn, part, result) => {
  if (part?.reasoning) {
    if (!turn.thinking) addThinking(turn);
    turn.thinking.textContent += part.reasoning;
  }
  if (part?.content) {
    result.firstAt ??= performance.now();
    turn.content += part.content;
    turn.text.textContent = turn.content;
  }
};

const call = async (body, turn, result) => {
  const response = await fetch("/playground/chat", {
    method: "POST",
    signal: running.signal,
    headers: { "content-type": "application/json", "x-csrf-token": play.dataset.csrf, "stack-key-id": key.value },
    body: JSON.stringify(body),
  });
  result.id = response.headers.get("x-request-id");
  result.left = response.headers.get("x-ratelimit-remaining-requests");
  if (response.status === 401) {
    sessionStorage.setItem("stack-message", body.messages.at(-1).content);
    location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
    return;
  }
  if (!response.ok) throw new CallError((await response.json()).error, response.status);
  if (!body.stream) {
    const answer = await response.json();
    result.usage = answer.usage;
    take(turn, answer.choices[0].message, result);
    return;
  }
  await read(response, (event) => {
    if (event.error) throw new CallError(event.error);
    result.usage = event.usage ?? result.usage;
    keepAtEnd(() => take(turn, event.choices?.[0]?.delta, result));
  });
};

const describe = (result, startedAt, isStream) => {
  const tokens = result.usage ? `${result.usage.prompt_tokens.toLocaleString("en")} + ${result.usage.completion_tokens.toLocaleString("en")} tokens · ` : "";
  const first = isStream && result.firstAt ? `, first after ${Math.round(result.firstAt - startedAt)} ms` : "";
  return `${tokens}${Math.round(performance.now() - startedAt)} ms${first}`;
};

const failed = (error, user, turn, result, body) => {
  const retry = element("button", "quiet small-button", "Retry");
  retry.type = "button";
  retry.addEventListener("click", () => {
    // The failed answer is replaced.
    turn.element.remove();
    user.element.remove();
    turns = turns.filter((one) => one !== user && one !== turn);
    if (message.value === user.content) message.value = "";
    ask(user.content);
  });
  const code = [error.statusCode, error.code].filter(Boolean).join(" ");
  const text = element("div", "", element("b", "", "The request failed."), ` ${error.message}`, element("br"), element("span", "small", ...(code ? [element("code", "", code)] : []), ...receipt(result.id)));
  const box = element("div", "note bad", text, retry);
  box.setAttribute("role", "alert");
  keepAtEnd(() => turn.element.append(box));
  if (turn.content) return;
  // Without an answer, the message is not part of the conversation. It can be edited and sent again.
  turns = turns.filter((one) => one !== user && one !== turn);
  turn.text.remove();
  user.element.classList.add("unsent");
  if (!message.value) message.value = body.messages.at(-1).content;
};

const stopped = (user, turn, result) => {
  note(turn, "muted", element("span", "tag wait", "Stopped"), " The request still counts if the model had started.", ...receipt(result.id));
  if (turn.content) return;
  turns = turns.filter((one) => one !== user && one !== turn);
  turn.text.remove();
  user.element.classList.add("unsent");
  if (!message.value) message.value = user.content;
};

const ask = async (text) => {
  const body = bodyOf(text);
  lastBody = body;
  for (const one of talk.querySelectorAll(".unsent, .unsent + .turn")) one.remove();
  const user = addTurn("user", text);
  const turn = addTurn("assistant", "");
  turn.text.textContent = "…";
  turns.push(user, turn);
  running = new AbortController();
  updateEmpty();
  send.textContent = "Stop";
  status.textContent = "Waiting for the model…";
  showCode();
  const result = { id: null, left: null, usage: null, firstAt: null };
  const startedAt = performance.now();
  try {
    await call(body, turn, result);
    note(turn, "muted", describe(result, startedAt, body.stream), ...receipt(result.id));
  } catch (caught) {
    const isKnown = caught instanceof CallError || caught.name === "AbortError";
    const error = isKnown ? caught : new CallError({ message: "The connection to the console was lost.", code: "connection_lost" });
    if (turn.text.textContent === "…") turn.text.textContent = "";
    if (error.name === "AbortError") stopped(user, turn, result);
    else {
      if (turn.content) note(turn, "muted", element("span", "tag bad", "Interrupted"), " This is what arrived.");
      failed(error, user, turn, result, body);
    }
  }
  running = null;
  status.textContent = result.left === null ? "" : `${result.left} left today`;
  send.textContent = "Send";
  updateEmpty();
  showCode();
  message.focus({ preventScroll: true });
  await format(turn);
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) { running.abort(); return; }
  const text = message.value.trim() || DEFAULT_TEXT;
  message.value = "";
  ask(text);
});
message.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
clear.addEventListener("click", () => {
  turns = [];
  lastBody = null;
  talk.replaceChildren();
  status.textContent = "";
  updateEmpty();
  showCode();
  message.focus();
});
// Listen on the whole playground, because the settings are outside the form element.
play.addEventListener("input", showCode);
key.addEventListener("change", offerModels);
model.addEventListener("change", explainModel);
// Restore the message that was sent after the session had ended, before the log-in.
message.value = sessionStorage.getItem("stack-message") ?? "";
sessionStorage.removeItem("stack-message");
offerModels();
showCode();
