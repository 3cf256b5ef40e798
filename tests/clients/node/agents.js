// npm's `@openai/agents` with OpenAI's default API, `/v1/responses`.

import { Agent, OpenAIResponsesModel, Runner, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, runCases, weather, weatherQuestion } from "./cases.js";
import { MODEL, user } from "./report.js";

const Weather = z.object({ city: z.string(), days: z.number().int().min(1) });

setTracingDisabled(true);

function agent([url, secret], { model = MODEL, ...members } = {}) {
  const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: secret });
  return new Agent({ name: "A", model: new OpenAIResponsesModel(client, model), ...members });
}

const runner = new Runner({ tracingDisabled: true });

await runCases("@openai/agents", {
  async read(url, secret, prompt, pieces) {
    const result = await runner.run(agent([url, secret]), prompt, { stream: true });
    for await (const piece of result.toTextStream()) pieces.push(piece);
    await result.completed;
    const [{ usage }] = result.rawResponses;
    return { text: result.finalOutput, output_tokens: usage.outputTokens };
  },

  async text(...where) {
    return (await runner.run(agent(where, { instructions: "Be brief." }), hello(where[1]))).finalOutput;
  },

  async tools(...where) {
    const calls = [];
    const execute = (given) => {
      calls.push(given);
      return weather(given);
    };
    const getWeather = tool({ name: "get_weather", description: "Tell the weather.", parameters: Weather, execute });
    const result = await runner.run(agent(where, { tools: [getWeather] }), lookTwice(where[1]));
    return { calls, text_after: result.finalOutput };
  },

  async history(...where) {
    const first = await runner.run(agent(where), firstOfTwo(where[1]));
    const second = await runner.run(agent(where), [...first.history, user(AGAIN)]);
    return { text: first.finalOutput, text_after: second.finalOutput };
  },

  async structured(...where) {
    const result = await runner.run(agent(where, { outputType: Weather }), weatherQuestion(where[1]));
    return { parsed: result.finalOutput };
  },

  async image(...where) {
    const picture = { type: "input_image", image: `data:image/png;base64,${png().toString("base64")}` };
    const content = [{ type: "input_text", text: hello(where[1]) }, picture];
    return { text: (await runner.run(agent(where, { model: SEEING_MODEL }), [user(content)])).finalOutput };
  },
});
