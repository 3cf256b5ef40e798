"""Gateway: the OpenAI-compatible HTTP API in front of auth, quota and inference.

The gateway handles HTTP, Server-Sent Events and the conversion between JSON and protobuf. It has no durable state, so
every replica can serve every request. Start reading at `requests/handler.py`, which handles a request.

Invariants:

- Requests are validated before a slot is reserved.
- A hold is settled only with a verdict of inference. Without a verdict it is left to quota's sweeper.
- An outage is never answered with 401. Every error has OpenAI's format, and every response has an `x-request-id`.
"""
