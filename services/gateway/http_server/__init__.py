"""HTTP/1.0 and HTTP/1.1 on the wire: an `asyncio.Protocol` that uvicorn serves, on top of httptools' parser.

uvicorn keeps what it is good at: sockets, the server loop, graceful shutdown. This package replaces its protocol class,
which cannot bound what a client sends (`connection.py` reads, `cycle.py` is ASGI, `write_flow.py` follows slow readers,
`connections.py` counts connections and keeps their deadlines, `rejections.py` answers what never becomes a request).

What always holds:

- Nothing that a client sends is kept without a bound in bytes and in time (`limits.py`).
- A request that has started is never cut by another request, or by a limit that another connection reaches.
- A connection ends so that its client can read the last response first.
"""
