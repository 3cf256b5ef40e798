"""Gateway: OpenAI's HTTP and JSON in front of auth, quota and inference.

It owns HTTP, JSON ↔ protobuf and Server-Sent Events, and keeps no state that matters: any replica answers any request.
Read `pipeline.py` first; it is what happens to a request.

Invariants:

- What can be refused for free is refused before anything is counted.
- A hold is settled on inference's explicit word only; without one it is left to quota's sweeper.
- An outage is never answered 401, and every answer, errors included, has the OpenAI envelope and an `x-request-id`.
"""
