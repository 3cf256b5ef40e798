// Shared by the Node programs: the order on stdin, the report on stdout, as in programs/report.py.

import { readFileSync } from "node:fs";

export const MODEL = "openai/gpt-oss-20b";
export const WEATHER_SCHEMA = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
  additionalProperties: false,
};
export const WEATHER_TOOL = {
  type: "function",
  function: { name: "get_weather", description: "Tell the weather.", parameters: WEATHER_SCHEMA },
};
export const WEATHER_FORMAT = {
  type: "json_schema",
  json_schema: { name: "weather", schema: WEATHER_SCHEMA, strict: true },
};
export const SEVEN_TOKENS = "Say hello [[standin:tokens count=7]]";
export const TOOL_CALL = "How is the weather? [[standin:tool_call]]";
const CUT = "Count [[standin:tokens count=9]] [[standin:cut after=3]]";

export const user = (content) => ({ role: "user", content });

// Return the client's own exception, `kind`, with which a call failed; no classes when it did not fail.
export async function failure(call, kind) {
  const started = performance.now();
  const seen = await call().then(
    () => ({ classes: [] }),
    (error) => {
      if (!(error instanceof kind)) throw error;
      return { classes: classes(error), message: error.message, status: error.status ?? null };
    },
  );
  return { ...seen, seconds: (performance.now() - started) / 1000 };
}

function classes(error) {
  const names = [];
  for (let kind = error.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) names.push(kind.name);
  return names;
}

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

    async tools(...where) {
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

// Run the order from stdin and print the report; a broken scenario prints the reason on stderr.
export async function run(name, scenarios) {
  const order = JSON.parse(readFileSync(0, "utf8"));
  const report = { version: versionOf(name) };
  for (const [scenario, secret] of Object.entries(order.keys)) {
    try {
      report[scenario] = await scenarios[scenario](order.base_url, secret);
    } catch (error) {
      console.error(`scenario ${scenario} broke`, error);
    }
  }
  console.log(JSON.stringify(report));
}

function versionOf(name) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url), "utf8")).version;
}
