// npm's `openai`, with our base URL.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { scenariosOf } from "./chat.js";
import { MODEL, SEVEN_TOKENS, TOOL_CALL, WEATHER_TOOL, run, user } from "./report.js";

const build = (url, secret) => new OpenAI({ baseURL: `${url}/v1`, apiKey: secret });
const Weather = z.object({ city: z.string(), days: z.number().int().min(1) });

async function stream(...where) {
  const messages = [user(SEVEN_TOKENS)];
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = [];
  for await (const chunk of await build(...where).chat.completions.create({ model: MODEL, messages, ...options })) {
    chunks.push(chunk);
  }
  const choices = chunks.flatMap((chunk) => chunk.choices);
  return {
    pieces: choices.map((choice) => choice.delta.content).filter(Boolean),
    finish_reason: choices.at(-1).finish_reason,
    completion_tokens: chunks.filter((chunk) => chunk.usage).map((chunk) => chunk.usage.completion_tokens),
  };
}

// The package's own helper assembles the stream.
async function toolStreamed(...where) {
  const body = { model: MODEL, messages: [user(TOOL_CALL)], tools: [WEATHER_TOOL] };
  const { choices } = await build(...where).chat.completions.stream(body).finalChatCompletion();
  const { message, finish_reason } = choices[0];
  const { name, arguments: text } = message.tool_calls[0].function;
  return { name, arguments: JSON.parse(text), finish_reason };
}

// A Zod object becomes a strict schema.
async function structured(...where) {
  const body = { model: MODEL, messages: [user("How is the weather?")] };
  const response_format = zodResponseFormat(Weather, "weather");
  const { choices } = await build(...where).chat.completions.parse({ ...body, response_format });
  return { parsed: choices[0].message.parsed };
}

const shared = scenariosOf(build, OpenAI.OpenAIError);
await run("openai", { ...shared, stream, tool_streamed: toolStreamed, structured });
