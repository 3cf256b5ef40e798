// npm's `@anthropic-ai/sdk` at `/v1/messages`.

import Anthropic from "@anthropic-ai/sdk";

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, runCases, weather, weatherQuestion } from "./cases.js";
import { MODEL, WEATHER_SCHEMA, user } from "./report.js";

const BASE = { model: MODEL, max_tokens: 1000 };
const TOOLS = [{ name: "get_weather", description: "Tell the weather.", input_schema: WEATHER_SCHEMA }];

const build = (url, secret) => new Anthropic({ baseURL: url, apiKey: secret });
const textOf = ({ content }) => content.filter((block) => block.type === "text").map((block) => block.text).join("");
const assistant = ({ content }) => ({ role: "assistant", content });

async function say(where, messages, members = {}) {
  return await build(...where).messages.create({ ...BASE, messages, ...members });
}

await runCases("@anthropic-ai/sdk", {
  async read(url, secret, prompt, pieces) {
    const stream = build(url, secret).messages.stream({ ...BASE, messages: [user(prompt)] });
    stream.on("text", (piece) => pieces.push(piece));
    const final = await stream.finalMessage();
    return { text: textOf(final), output_tokens: final.usage.output_tokens };
  },

  async text(...where) {
    return textOf(await say(where, [user(hello(where[1]))]));
  },

  async tools(...where) {
    const messages = [user(lookTwice(where[1]))];
    const first = await build(...where).messages.stream({ ...BASE, messages, tools: TOOLS }).finalMessage();
    const calls = first.content.filter((block) => block.type === "tool_use");
    const results = calls.map(({ id, input }) => ({ type: "tool_result", tool_use_id: id, content: weather(input) }));
    const after = await say(where, [...messages, assistant(first), user(results.reverse())], { tools: TOOLS });
    return { calls: calls.map((call) => call.input), text_after: textOf(after) };
  },

  async history(...where) {
    const question = user(firstOfTwo(where[1]));
    const first = await say(where, [question]);
    const second = await say(where, [question, assistant(first), user(AGAIN)]);
    return { text: textOf(first), text_after: textOf(second) };
  },

  async structured(...where) {
    const format = { type: "json_schema", schema: WEATHER_SCHEMA };
    const answer = await say(where, [user(weatherQuestion(where[1]))], { output_config: { format } });
    return { parsed: JSON.parse(textOf(answer)) };
  },

  async image(...where) {
    const source = { type: "base64", media_type: "image/png", data: png().toString("base64") };
    const content = [{ type: "image", source }, { type: "text", text: hello(where[1]) }];
    return { text: textOf(await say(where, [user(content)], { model: SEEING_MODEL })) };
  },
});
