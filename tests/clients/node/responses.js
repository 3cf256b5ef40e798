// npm's `openai` at `/v1/responses`.

import OpenAI from "openai";
import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, runCases, weather, weatherQuestion } from "./cases.js";
import { MODEL, WEATHER_TOOL, user } from "./report.js";

const build = (url, secret) => new OpenAI({ baseURL: `${url}/v1`, apiKey: secret });
const Weather = z.object({ city: z.string(), days: z.number().int().min(1) });
const TOOL = { type: "function", strict: true, ...WEATHER_TOOL.function };

// The helper returns a failed or cut stream as it is: its status says so.
async function read(url, secret, prompt, pieces) {
  const stream = build(url, secret).responses.stream({ model: MODEL, input: prompt });
  for await (const event of stream) if (event.type === "response.output_text.delta") pieces.push(event.delta);
  const final = await stream.finalResponse();
  if (final.status !== "completed") throw new Error(`${final.status}: ${final.error?.message}`);
  return { text: final.output_text, output_tokens: final.usage.output_tokens };
}

await runCases("openai", {
  read,

  async text(url, secret) {
    return (await build(url, secret).responses.create({ model: MODEL, input: hello(secret) })).output_text;
  },

  async tools(url, secret) {
    const client = build(url, secret);
    const input = [user(lookTwice(secret))];
    const members = { model: MODEL, tools: [TOOL], include: ["reasoning.encrypted_content"] };
    const { output } = await client.responses.stream({ ...members, input }).finalResponse();
    const calls = output.filter((item) => item.type === "function_call");
    const results = calls.map(({ call_id, arguments: text }) => {
      return { type: "function_call_output", call_id, output: weather(JSON.parse(text)) };
    });
    const after = await client.responses.create({ ...members, input: [...input, ...output, ...results] });
    return { calls: calls.map((call) => JSON.parse(call.arguments)), text_after: after.output_text };
  },

  async history(url, secret) {
    const client = build(url, secret);
    const input = [user(firstOfTwo(secret))];
    const first = await client.responses.create({ model: MODEL, input });
    const second = await client.responses.create({ model: MODEL, input: [...input, ...first.output, user(AGAIN)] });
    return { text: first.output_text, text_after: second.output_text };
  },

  async structured(url, secret) {
    const text = { format: zodTextFormat(Weather, "weather") };
    const body = { model: MODEL, input: weatherQuestion(secret), text };
    return { parsed: (await build(url, secret).responses.parse(body)).output_parsed };
  },

  async image(url, secret) {
    const picture = { type: "input_image", image_url: `data:image/png;base64,${png().toString("base64")}`, detail: "auto" };
    const input = [user([{ type: "input_text", text: hello(secret) }, picture])];
    return { text: (await build(url, secret).responses.create({ model: SEEING_MODEL, input })).output_text };
  },
});
