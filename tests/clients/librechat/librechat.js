// LibreChat's agent engine, configured as LibreChat configures a custom endpoint. Each answer is a stream.

import { AIMessage, HumanMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import * as engine from "@librechat/agents";

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, runCases, weather } from "../node/cases.js";
import { MODEL, WEATHER_SCHEMA } from "../node/report.js";

const { GraphEvents } = engine;
const user = (content) => new HumanMessage({ content });

// Run the engine until its answer is complete, and return its text.
async function ask([url, secret], messages, { model = MODEL, tools = [], pieces = [] } = {}) {
  const configuration = { baseURL: `${url}/v1` };
  const llmConfig = { provider: engine.Providers.OPENAI, model, apiKey: secret, streaming: true, configuration };
  const onDelta = (_, { delta }) => pieces.push(...delta.content.map((part) => part.text));
  const run = await engine.Run.create({
    runId: crypto.randomUUID(),
    graphConfig: { type: "standard", instructions: "Be brief.", tools, llmConfig },
    returnContent: true,
    customHandlers: {
      [GraphEvents.TOOL_END]: new engine.ToolEndHandler(),
      [GraphEvents.CHAT_MODEL_STREAM]: new engine.ChatModelStreamHandler(),
      [GraphEvents.CHAT_MODEL_END]: new engine.ModelEndHandler(),
      [GraphEvents.ON_MESSAGE_DELTA]: { handle: onDelta },
    },
  });
  const config = { runId: run.id, configurable: { thread_id: "thread" }, streamMode: "values", version: "v2" };
  const content = await run.processStream({ messages }, config);
  return content.map((part) => part.text ?? "").join("");
}

const cases = {
  text: (...where) => ask(where, [user(hello(where[1]))]),

  async read(url, secret, prompt, pieces) {
    return { text: await ask([url, secret], [user(prompt)], { pieces }) };
  },

  async tools(...where) {
    const calls = [];
    const called = (given) => {
      calls.push(given);
      return weather(given);
    };
    const offered = tool(called, { name: "get_weather", description: "Tell the weather.", schema: WEATHER_SCHEMA });
    const text = await ask(where, [user(lookTwice(where[1]))], { tools: [offered] });
    return { calls, text_after: text };
  },

  async history(...where) {
    const question = user(firstOfTwo(where[1]));
    const text = await ask(where, [question]);
    return { text, text_after: await ask(where, [question, new AIMessage(text), user(AGAIN)]) };
  },

  async image(...where) {
    const url = `data:image/png;base64,${png().toString("base64")}`;
    const content = [{ type: "text", text: hello(where[1]) }, { type: "image_url", image_url: { url, detail: "auto" } }];
    return { text: await ask(where, [user(content)], { model: SEEING_MODEL }) };
  },
};

await runCases("@librechat/agents", cases, import.meta.url);
