"use strict";
// Copy buttons, countdowns and the playground. All other pages work without JavaScript.

const copy = async (field) => {
  try {
    await navigator.clipboard.writeText(field.value ?? field.textContent);
    return true;
  } catch {
    // The clipboard API is not available over plain HTTP. Select the text for execCommand or Ctrl-C.
    if (field.select) field.select();
    else getSelection().selectAllChildren(field);
    return document.execCommand("copy");
  }
};

for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    button.textContent = await copy(document.getElementById(button.dataset.copy)) ? "Copied" : "Press Ctrl-C";
    setTimeout(() => { button.textContent = label; }, 2000);
  });
}

for (const element of document.querySelectorAll("[data-until]")) {
  const until = Number(element.dataset.until) * 1000;
  const update = () => {
    const seconds = Math.max(0, Math.round((until - Date.now()) / 1000));
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    element.textContent = parts.map((part) => String(part).padStart(2, "0")).join(":");
  };
  update();
  setInterval(update, 1000);
}

const play = document.getElementById("playground");
if (play) {
  const talk = document.getElementById("talk");
  const form = document.getElementById("say");
  const status = document.getElementById("status");
  const messages = [];
  let running = null;

  const addTurn = (author, text) => {
    document.getElementById("talk-empty")?.remove();
    const element = document.createElement("div");
    const name = document.createElement("b");
    const body = document.createElement("span");
    element.className = author === "You" ? "turn you" : "turn";
    name.textContent = author;
    body.textContent = text;
    element.append(name, body);
    talk.append(element);
    talk.scrollTop = talk.scrollHeight;
    return body;
  };

  const request = () => {
    const system = form.elements.system.value.trim();
    const text = form.elements.message.value.trim() || "Hello, who are you?";
    const all = [...(system ? [{ role: "system", content: system }] : []), ...messages, { role: "user", content: text }];
    return { model: form.elements.model.value, messages: all, stream: form.elements.stream.checked };
  };

  const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  const apis = {
    chat: {
      path: "chat", method: "chat.completions.create", messages: "messages", options: {},
      python: { options: "", text: "answer.choices[0].message.content", loop: `for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="") if chunk.choices else None` },
      javascript: { text: "answer.choices[0].message.content", loop: `for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");` },
    },
    responses: {
      // The playground stores nothing. Without `store`, a response is stored if the operator stores responses.
      path: "responses", method: "responses.create", messages: "input", options: { store: false },
      python: { options: "    store=False,\n", text: "answer.output_text", loop: `for event in stream:\n    if event.type == "response.output_text.delta":\n        print(event.delta, end="")` },
      javascript: { text: "answer.output_text", loop: `for await (const event of stream) {\n  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);\n}` },
    },
  };
  const bodyOf = (body, api) => ({ model: body.model, [api.messages]: body.messages, ...api.options, stream: body.stream });
  const snippets = {
    curl: (body, url, api) => `curl ${url}/api/v1/${api.path} \\\n  -H "Authorization: Bearer $STACK_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d ${shellQuoted(JSON.stringify(bodyOf(body, api), null, 2))}`,
    python: (body, url, api) => `import os\nfrom openai import OpenAI\n\nclient = OpenAI(base_url="${url}/api/v1", api_key=os.environ["STACK_API_KEY"])\n${body.stream ? "stream" : "answer"} = client.${api.method}(\n    model=${JSON.stringify(body.model)},\n    ${api.messages}=${JSON.stringify(body.messages, null, 4).replaceAll("\n", "\n    ")},\n${api.python.options}${body.stream ? `    stream=True,\n)\n${api.python.loop}` : `)\nprint(${api.python.text})`}`,
    javascript: (body, url, api) => `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${url}/api/v1", apiKey: process.env.STACK_API_KEY });\nconst ${body.stream ? "stream" : "answer"} = await client.${api.method}(${JSON.stringify(bodyOf(body, api), null, 2)});\n${body.stream ? api.javascript.loop : `console.log(${api.javascript.text});`}`,
  };
  let language = "curl";
  const show = () => { document.getElementById("snippet").textContent = snippets[language](request(), play.dataset.url, apis[form.elements.api.value]); };
  const tabs = [...document.querySelectorAll("[data-language]")];
  const choose = (chosen) => {
    language = chosen.dataset.language;
    for (const tab of tabs) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    document.getElementById("snippet-panel").setAttribute("aria-labelledby", chosen.id);
    show();
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
  // Restore the message that was sent after the session had ended, before the log-in.
  form.elements.message.value = sessionStorage.getItem("stack-message") ?? "";
  sessionStorage.removeItem("stack-message");
  // Listen on the whole playground, because the settings are outside the form element.
  play.addEventListener("input", show);
  form.elements.message.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  });
  show();

  const read = async (response, body) => {
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return text;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new Error(event.error.message);
        text += event.choices?.[0]?.delta?.content ?? "";
        body.textContent = text;
        talk.scrollTop = talk.scrollHeight;
      }
    }
  };

  const ask = async (body, answer) => {
    running = new AbortController();
    const response = await fetch("/playground/chat", {
      method: "POST",
      signal: running.signal,
      headers: { "content-type": "application/json", "x-csrf-token": play.dataset.csrf, "stack-key-id": form.elements.key.value },
      body: JSON.stringify(body),
    });
    if (response.status === 401) {
      sessionStorage.setItem("stack-message", body.messages.at(-1).content);
      location.assign("/login?next=/playground");
      return;
    }
    if (!response.ok) throw new Error((await response.json()).error.message);
    const id = response.headers.get("x-request-id");
    const text = body.stream ? await read(response, answer) : (await response.json()).choices[0].message.content;
    answer.textContent = text;
    messages.push(body.messages.at(-1), { role: "assistant", content: text });
    const left = response.headers.get("x-ratelimit-remaining-requests");
    const link = document.createElement("a");
    link.href = `/usage/requests/${id}`;
    link.textContent = id;
    status.replaceChildren("Request ", link, left === null ? "" : `, ${left} left today`);
  };

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) { running.abort(); return; }
    const body = request();
    const button = form.querySelector("button[type=submit]");
    addTurn("You", body.messages.at(-1).content);
    const answer = addTurn("Answer", "…");
    form.elements.message.value = "";
    button.textContent = "Stop";
    status.textContent = "Waiting for the model…";
    try {
      await ask(body, answer);
    } catch (error) {
      if (error.name === "AbortError") status.textContent = "Stopped. The request still counts if the model had started.";
      else { answer.textContent = error.message; answer.parentElement.classList.add("failed"); status.textContent = "The request failed."; }
    }
    running = null;
    button.textContent = "Send";
    show();
    form.elements.message.focus();
  });
}
