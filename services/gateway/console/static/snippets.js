// The code that makes the same request as the playground.

const shellQuoted = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

// JSON as Python: true, false and null have other names there, but not within strings.
const python = (value, indent) => JSON.stringify(value, null, 4).replaceAll("\n", `\n${indent}`)
  .replace(/"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b/g, (token) => ({ true: "True", false: "False", null: "None" }[token] ?? token));

const apis = {
  chat: {
    path: "chat", method: "chat.completions.create",
    body: (body) => body,
    python: { text: "answer.choices[0].message.content", loop: `for chunk in stream:\n    print(chunk.choices[0].delta.content or "", end="") if chunk.choices else None` },
    javascript: { text: "answer.choices[0].message.content", loop: `for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta?.content ?? "");` },
  },
  responses: {
    path: "responses", method: "responses.create",
    // The playground stores nothing. Without `store`, a response is stored if the operator stores responses.
    body: ({ messages, max_completion_tokens, stream_options, ...others }) => ({
      ...others, input: messages, ...(max_completion_tokens ? { max_output_tokens: max_completion_tokens } : {}), store: false,
    }),
    python: { text: "answer.output_text", loop: `for event in stream:\n    if event.type == "response.output_text.delta":\n        print(event.delta, end="")` },
    javascript: { text: "answer.output_text", loop: `for await (const event of stream) {\n  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);\n}` },
  },
};

const languages = {
  curl: (body, url, api) => `curl ${url}/api/v1/${api.path} \\\n  -H "Authorization: Bearer $STACK_API_KEY" \\\n  -H "Content-Type: application/json" \\\n  -d ${shellQuoted(JSON.stringify(body, null, 2))}`,
  python: (body, url, api) => {
    const members = Object.entries(body).map(([name, value]) => `    ${name}=${python(value, "    ")},\n`).join("");
    const call = `client = OpenAI(base_url="${url}/api/v1", api_key=os.environ["STACK_API_KEY"])\n${body.stream ? "stream" : "answer"} = client.${api.method}(\n${members})`;
    return `import os\nfrom openai import OpenAI\n\n${call}\n${body.stream ? api.python.loop : `print(${api.python.text})`}`;
  },
  javascript: (body, url, api) => `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${url}/api/v1", apiKey: process.env.STACK_API_KEY });\nconst ${body.stream ? "stream" : "answer"} = await client.${api.method}(${JSON.stringify(body, null, 2)});\n${body.stream ? api.javascript.loop : `console.log(${api.javascript.text});`}`,
};

export const snippet = (language, body, url, api) => languages[language](apis[api].body(body), url, apis[api]);
