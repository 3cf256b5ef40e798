// Cases of the clients of `/v1/responses` and `/v1/messages`, as in programs/cases.py: prompts and shared scenarios.

import { crc32, deflateSync } from "node:zlib";

import { SEVEN_TOKENS, failure, run } from "./report.js";

export const SEEING_MODEL = "qwen/qwen3.8-27b";
export const CITIES = ["Paris", "Rome"];
const LOOK_TWICE = {
  reasoning: "I look twice.",
  calls: CITIES.map((city, index) => ({ name: "get_weather", arguments: { city, days: index + 1 } })),
};
const GREETINGS = [{ reasoning: "A greeting.", content: "Good morning." }, { content: "Welcome back." }];

const inCase = (text, secret) => `${text} Case ${secret.slice(-12)}`;
const play = (...turns) => `[[standin:play turns=${encodeURIComponent(JSON.stringify(turns))}]]`;

export const hello = (secret) => inCase(SEVEN_TOKENS, secret);
export const lookTwice = (secret) => inCase(`Compare. ${play(LOOK_TWICE, { content: "Both are sunny." })}`, secret);
export const firstOfTwo = (secret) => inCase(`Hello. ${play(...GREETINGS)}`, secret);
export const AGAIN = "It is me again.";
export const cut = (secret) => inCase("Count. [[standin:tokens count=9]] [[standin:cut after=3]]", secret);
export const weatherQuestion = (secret) => inCase("How is the weather?", secret);
export const weather = ({ city, days }) => `sunny in ${city} for ${days} days`;

// Return a red image of 32 by 32 pixels.
export function png() {
  const header = Buffer.from([0, 0, 0, 32, 0, 0, 0, 32, 8, 2, 0, 0, 0]);
  const row = Buffer.concat([Buffer.from([0]), Buffer.alloc(96, Buffer.from([255, 0, 0]))]);
  const rows = deflateSync(Buffer.concat(Array(32).fill(row)));
  const chunks = [["IHDR", header], ["IDAT", rows], ["IEND", Buffer.alloc(0)]].map(([kind, data]) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const size = Buffer.alloc(4);
    size.writeUInt32BE(data.length);
    const checksum = Buffer.alloc(4);
    checksum.writeUInt32BE(crc32(body));
    return Buffer.concat([size, body, checksum]);
  });
  return Buffer.concat([Buffer.from("\x89PNG\r\n\x1a\n", "latin1"), ...chunks]);
}

// Run the scenarios of a package, with those that are the same for all. `stream` returns its pieces through `collect`.
export async function runCases(name, { text, read, ...scenarios }, folder) {
  const shared = {
    text: async (...where) => ({ text: await text(...where) }),

    async stream(url, secret) {
      const pieces = [];
      return { pieces, ...(await read(url, secret, hello(secret), pieces)) };
    },

    async cut(url, secret) {
      const pieces = [];
      const error = await failure(() => read(url, secret, cut(secret), pieces), Error);
      return { error, pieces };
    },

    exhausted: async (...where) => ({
      first: { text: await text(...where) },
      second: await failure(() => text(...where), Error),
    }),
  };
  await run(name, { ...scenarios, ...shared }, folder);
}
