// Scenarios of chat completions that are the same for the packages of OpenAI and Groq.

import { AGAIN, SEEING_MODEL, firstOfTwo, hello, lookTwice, png, weather } from "./cases.js";
import { CUT, MODEL, SEVEN_TOKENS, TOOL_CALL, WEATHER_TOOL, failure, user } from "./report.js";

// Return the scenarios that are the same for both packages, which one generator creates. `build` creates a client.
export function scenariosOf(build, kind) {
  const ask = (client, body) => client.chat.completions.create({ model: MODEL, ...body });

  async function say(client, text) {
    const { choices, usage } = await ask(client, { messages: [user(text)] });
    const { message, finish_reason } = choices[0];
    return { text: message.content, finish_reason, completion_tokens: usage.completion_tokens };
  }

  const refused = (...where) => failure(() => say(build(...where), SEVEN_TOKENS), kind);

  return {
    create: (...where) => say(build(...where), SEVEN_TOKENS),

    async tool(...where) {
      const client = build(...where);
      const messages = [user(TOOL_CALL)];
      const { choices } = await ask(client, { messages, tools: [WEATHER_TOOL] });
      const { message, finish_reason } = choices[0];
      const [call] = message.tool_calls;
      messages.push(message, { role: "tool", tool_call_id: call.id, content: "sunny" }, user(SEVEN_TOKENS));
      const after = await ask(client, { messages, tools: [WEATHER_TOOL] });
      const seen = { name: call.function.name, arguments: JSON.parse(call.function.arguments), finish_reason };
      return { ...seen, text_after: after.choices[0].message.content };
    },

    async tools(...where) {
      const client = build(...where);
      const messages = [user(lookTwice(where[1]))];
      const { message } = (await ask(client, { messages, tools: [WEATHER_TOOL] })).choices[0];
      const calls = message.tool_calls.map((call) => JSON.parse(call.function.arguments));
      const results = message.tool_calls.map(({ id }, index) => {
        return { role: "tool", tool_call_id: id, content: weather(calls[index]) };
      });
      const after = await ask(client, { messages: [...messages, message, ...results], tools: [WEATHER_TOOL] });
      return { calls, text_after: after.choices[0].message.content };
    },

    async history(...where) {
      const client = build(...where);
      const messages = [user(firstOfTwo(where[1]))];
      const { message } = (await ask(client, { messages })).choices[0];
      const after = await ask(client, { messages: [...messages, message, user(AGAIN)] });
      return { text: message.content, text_after: after.choices[0].message.content };
    },

    async image(...where) {
      const picture = { type: "image_url", image_url: { url: `data:image/png;base64,${png().toString("base64")}` } };
      const messages = [user([{ type: "text", text: hello(where[1]) }, picture])];
      const { choices } = await ask(build(...where), { model: SEEING_MODEL, messages });
      return { text: choices[0].message.content };
    },

    async models(...where) {
      const client = build(...where);
      const { data } = await client.models.list();
      const { id } = await client.models.retrieve(MODEL);
      const missing = await failure(() => client.models.retrieve("no/such-model"), kind);
      return { names: data.map((model) => model.id), retrieved: id, missing };
    },

    wrong_key: refused,

    exhausted: async (...where) => ({
      first: await say(build(...where), SEVEN_TOKENS),
      second: await refused(...where),
    }),

    upstream_503: (url, secret) =>
      say(build(url, secret), `${SEVEN_TOKENS} [[standin:flaky times=1 status=503 id=${secret.slice(-12)}]]`),

    async cut(...where) {
      const pieces = [];
      const error = await failure(async () => {
        for await (const chunk of await ask(build(...where), { messages: [user(CUT)], stream: true })) {
          pieces.push(...chunk.choices.map((choice) => choice.delta.content).filter(Boolean));
        }
      }, kind);
      return { pieces, error };
    },
  };
}
