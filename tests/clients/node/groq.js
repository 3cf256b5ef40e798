// npm's `groq-sdk`, with our base URL.

import Groq from "groq-sdk";

import { scenariosOf } from "./chat.js";
import { MODEL, SEVEN_TOKENS, TOOL_CALL, WEATHER_FORMAT, WEATHER_TOOL, run, user } from "./report.js";

const build = (url, secret) => new Groq({ baseURL: url, apiKey: secret });

async function chunksOf(where, body) {
  const chunks = [];
  for await (const chunk of await build(...where).chat.completions.create({ model: MODEL, stream: true, ...body })) {
    chunks.push(chunk);
  }
  return chunks;
}

// Groq's package finds a stream's usage under `x_groq`.
async function stream(...where) {
  const chunks = await chunksOf(where, { messages: [user(SEVEN_TOKENS)] });
  return {
    pieces: chunks.map((chunk) => chunk.choices[0].delta.content).filter(Boolean),
    finish_reason: chunks.at(-1).choices[0].finish_reason,
    completion_tokens: chunks.filter((chunk) => chunk.x_groq?.usage).map((chunk) => chunk.x_groq.usage.completion_tokens),
  };
}

async function toolStreamed(...where) {
  const chunks = await chunksOf(where, { messages: [user(TOOL_CALL)], tools: [WEATHER_TOOL] });
  const functions = chunks.flatMap((chunk) => chunk.choices[0].delta.tool_calls ?? []).map((call) => call.function);
  return {
    name: functions.map((each) => each.name ?? "").join(""),
    arguments: JSON.parse(functions.map((each) => each.arguments ?? "").join("")),
    finish_reason: chunks.at(-1).choices[0].finish_reason,
  };
}

async function structured(...where) {
  const body = { model: MODEL, messages: [user("How is the weather?")], response_format: WEATHER_FORMAT };
  const { choices } = await build(...where).chat.completions.create(body);
  return { parsed: JSON.parse(choices[0].message.content) };
}

const shared = scenariosOf(build, Groq.GroqError);
await run("groq-sdk", { ...shared, stream, tool_streamed: toolStreamed, structured });
