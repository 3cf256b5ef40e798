"""A stand-in for Groq: an HTTP server with Groq's chat API, for `make run`, tests and benchmarks.

It answers like Groq as far as Groq's behaviour is known, and simulates failures on request. Requests select a behaviour
with a marker in their last user message, because the gateway passes nothing else on: `[[standin:NAME key=value]]`.
A message may have several markers (`[[standin:tokens count=50]] [[standin:cut after=3]]`). All keys are optional; the
table shows the defaults. `after=N` counts token events after the role chunk. `GET /modes` lists the modes as JSON, with
the effect on answers that are not streamed. An unknown marker gets a 400.

| marker | effect |
|---|---|
| `[[standin:reasoning tokens=12]]` | reasons for N tokens before the answer, with any model |
| `[[standin:tool_call]]` | calls the first tool of the request, or `standin_tool` |
| `[[standin:play turns=%5B%5D]]` | plays a script: text, reasoning and tool calls, turn by turn (below) |
| `[[standin:function_call pieces=6]]` | the deprecated `function_call`, with its arguments in N + 2 pieces |
| `[[standin:length tokens=5]]` | stops after N tokens of content with finish_reason `length` |
| `[[standin:tokens count=20]]` | answers exactly N completion tokens, without reasoning |
| `[[standin:unicode]]` | answers multi-byte text, `<>&` and emoji |
| `[[standin:big bytes=100000 piece=256]]` | answers N bytes of text; each piece is one token and one event |
| `[[standin:unclean text=utf8 where=content]]` | text that is not valid Unicode (below) |
| `[[standin:cached tokens=8]]` | reports N cached prompt tokens |
| `[[standin:slow headers_ms=0 first_ms=0 token_ms=0]]` | waits before headers, before the first and between tokens |
| `[[standin:400]]` | 400, a validation error |
| `[[standin:401]]` | 401, invalid API key, no rate limit headers |
| `[[standin:403]]` | 403, JSON |
| `[[standin:403-html]]` | 403, an HTML page of the edge |
| `[[standin:404]]` | 404 model_not_found |
| `[[standin:413]]` | 413, the token quota kind |
| `[[standin:422]]` | 422 |
| `[[standin:424]]` | 424 |
| `[[standin:429 retry_after=2]]` | 429 on tokens per minute, with retry-after and an organisation id |
| `[[standin:429-day]]` | 429 on tokens per day, retry-after of almost ten minutes |
| `[[standin:498]]` | 498 flex capacity exceeded |
| `[[standin:500]]` | 500 |
| `[[standin:502-html]]` | 502, an HTML page of the edge |
| `[[standin:503]]` | 503 |
| `[[standin:tool_use_failed]]` | 400 tool_use_failed with failed_generation |
| `[[standin:json_validate_failed]]` | 400 json_validate_failed with failed_generation |
| `[[standin:context_length]]` | 400 context_length_exceeded |
| `[[standin:decommissioned]]` | 400 model_decommissioned |
| `[[standin:restricted]]` | 400 organization_restricted |
| `[[standin:model_blocked]]` | 403 model_permission_blocked_org |
| `[[standin:model_terms]]` | 400 model_terms_required |
| `[[standin:retry_after ms=2000 form=seconds]]` | the preceding refusal has retry-after in this form (below) |
| `[[standin:long_message bytes=20000 alphabet=ascii]]` | the error's message has N bytes of ascii, cjk or emoji |
| `[[standin:error_event after=3 status=400]]` | HTTP 200, then `event: error` with this status_code, then the end |
| `[[standin:x_groq_error after=3 usage=0]]` | a chunk with `x_groq.error`, no finish chunk, then `[DONE]` |
| `[[standin:no_answer what=object]]` | 200 without an answer (below) |
| `[[standin:cut after=3 how=close]]` | no finish chunk, no `[DONE]`: the connection closes or (how=end) the body ends |
| `[[standin:no_done how=end]]` | a complete stream without `[DONE]`; how=close then closes the connection |
| `[[standin:finish_only]]` | only a finish chunk without usage, then the connection closes |
| `[[standin:bad_chunk after=3]]` | an HTTP chunk with an invalid size after N tokens, then the connection closes |
| `[[standin:hang]]` | no answer until the client disconnects or 300 s pass |
| `[[standin:hang_stream after=3]]` | sends nothing after N tokens until the client disconnects or 300 s pass |
| `[[standin:reset]]` | TCP reset before headers |
| `[[standin:reset_stream after=3]]` | TCP reset after N tokens |
| `[[standin:flaky times=1 status=503 id=default]]` | the first N requests with this id get the mode `status` |
| `[[standin:usage only=all]]` | usage in one place only: x_groq, top, last or none |
| `[[standin:odd_usage counts=huge]]` | counts of 2^62 and more, an empty usage, or text for counts |
| `[[standin:odd_id form=number]]` | `x_groq.id` is a number, an object or 100,000 characters (long) |
| `[[standin:sse form=crlf]]` | the stream in another legal form (below); several markers combine |
| `[[standin:burst size=8]]` | N events in one write |
| `[[standin:drip]]` | each event in several writes, cut inside a line and inside a UTF-8 character |

`play` makes the stand-in a scripted model, so that tool loops of real clients are real. `turns` is a percent-encoded
JSON array of turns; `turns.marker` writes it. Each turn answers one request: the first one that with the marker in its
last user message, the next ones after as many assistant messages. After the last turn, ordinary answers follow. A turn
has the members `reasoning`, `content`, `calls` (of `name` and `arguments`) and `finish_reason`, all optional. Other
markers in the same message apply to each turn: `cut` after a tool call, for example.

Where a parameter has a fixed set of values, `GET /modes` lists them:

- `unclean text=`: `utf8` (the byte 0xFF), `surrogate` (half of a pair), `emoji` (both halves, in two deltas); `where=`:
  `content`, `reasoning`, `arguments`, `error`.
- `retry_after form=`: `seconds`, `fraction`, `date`, `ms` (the header `retry-after-ms`).
- `no_answer what=`: `object` (`{}`), `error` (an error member), `null` and `empty` (as choices), `text` (not JSON),
  `done` (only `[DONE]`).
- `x_groq_error usage=1`: the chunk reports the usage too.
- `odd_usage counts=`: `huge`, `empty`, `text`; `odd_id form=`: `number`, `object`, `long` (100,000 characters).
- `sse form=`: `bom`, `cr`, `crlf`, `lines` (JSON over two data lines), `no_space`, `comments`, `empty` (events without
  data).

`PUT /model-list?answer=…` changes the model list: `ordinary`, `unclean`, `text` (not JSON), `object` (`{}`), `big`
(2 MB), `503`, or `hang`. `GET /model-list` returns the number of its requests.

Options such as `--requests-per-minute 30 --tokens-per-minute 6000` enforce Groq's rate limits for each key and model;
`--minute-seconds 6` makes a minute shorter. Without them, nothing is limited.

Limitations: it counts tokens by a simple rule (`prose.py`), and returns no logprobs even
with `--allow-logprobs`. Bodies without a public record (for example of 403, 422, 424, 500 and malformed JSON) are
guesses in Groq's format.
"""
