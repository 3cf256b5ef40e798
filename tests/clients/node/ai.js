// The AI SDK with one of its providers, named by the program's argument; with `stored`, with that provider's defaults.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenResponses } from "@ai-sdk/open-responses";
import { createOpenAI } from "@ai-sdk/openai";
import { Output, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, runCases, weather, weatherQuestion } from "./cases.js";
import { MODEL, user } from "./report.js";

const Weather = z.object({ city: z.string(), days: z.number().int().min(1) });
const BUILD = {
  "@ai-sdk/openai": (url, apiKey) => createOpenAI({ baseURL: `${url}/v1`, apiKey }),
  "@ai-sdk/open-responses": (url, apiKey) => createOpenResponses({ name: "stack", url: `${url}/v1/responses`, apiKey }),
  "@ai-sdk/anthropic": (url, apiKey) => createAnthropic({ baseURL: `${url}/v1`, apiKey }),
};
const [provider, stored] = process.argv.slice(2);
// Without stored responses, OpenAI's provider must send items instead of references to them.
const providerOptions = stored ? {} : { openai: { store: false } };

const members = ([url, secret], model = MODEL) => ({ model: BUILD[provider](url, secret)(model), providerOptions });

await runCases(provider, {
  async read(url, secret, prompt, pieces) {
    let failed;
    const result = streamText({ ...members([url, secret]), prompt, onError: ({ error }) => (failed = error) });
    for await (const piece of result.textStream) pieces.push(piece);
    if (failed) throw failed;
    return { text: await result.text, output_tokens: (await result.usage).outputTokens };
  },

  async text(...where) {
    return (await generateText({ ...members(where), prompt: hello(where[1]) })).text;
  },

  async tools(...where) {
    const calls = [];
    const execute = (given) => {
      calls.push(given);
      return weather(given);
    };
    const tools = { get_weather: tool({ description: "Tell the weather.", inputSchema: Weather, execute }) };
    const prompt = lookTwice(where[1]);
    const { text } = await generateText({ ...members(where), tools, prompt, stopWhen: isStepCount(3) });
    return { calls, text_after: text };
  },

  async history(...where) {
    const messages = [user(firstOfTwo(where[1]))];
    const first = await generateText({ ...members(where), messages });
    const again = [...messages, ...first.response.messages, user(AGAIN)];
    return { text: first.text, text_after: (await generateText({ ...members(where), messages: again })).text };
  },

  async structured(...where) {
    const output = Output.object({ schema: Weather });
    return { parsed: (await generateText({ ...members(where), output, prompt: weatherQuestion(where[1]) })).output };
  },

  async image(...where) {
    const content = [{ type: "text", text: hello(where[1]) }, { type: "image", image: png(), mediaType: "image/png" }];
    return { text: (await generateText({ ...members(where, SEEING_MODEL), messages: [user(content)] })).text };
  },
});
