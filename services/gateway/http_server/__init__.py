"""An HTTP/1.0 and HTTP/1.1 protocol for uvicorn, based on httptools' parser.

uvicorn handles sockets, the server loop and graceful shutdown. This package replaces its protocol class, which does not
limit what a client sends. `connection.py` reads requests, `cycle.py` implements ASGI, `write_flow.py` handles slow
readers, `connections.py` counts connections and checks their deadlines, and `rejections.py` answers input that is not a
valid request.

Invariants:

- Everything received from a client is limited in bytes and in time (`limits.py`).
- A request in progress is never interrupted by another request, or by a limit that another connection reaches.
- A connection is closed such that its client can read the last response.
"""
