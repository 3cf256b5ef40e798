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
export const CUT = "Count [[standin:tokens count=9]] [[standin:cut after=3]]";

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

// Run the order from stdin and print the report; a broken scenario prints the reason on stderr. `folder` is the URL of a
// file beside the packages.
export async function run(name, scenarios, folder = import.meta.url) {
  const order = JSON.parse(readFileSync(0, "utf8"));
  const report = { version: versionOf(name, folder) };
  for (const [scenario, secret] of Object.entries(order.keys)) {
    try {
      report[scenario] = await scenarios[scenario](order.base_url, secret);
    } catch (error) {
      console.error(`scenario ${scenario} broke`, error);
    }
  }
  console.log(JSON.stringify(report));
}

function versionOf(name, folder) {
  return JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, folder), "utf8")).version;
}
