"""Many calls over one bidirectional gRPC stream.

A call of its own costs gRPC a tenth of a millisecond of CPU in the client, and more in the server. On a stream, the
calls that start at about the same time share a message, and so do their results (decision 0031).

The messages of such an RPC have the fields that `messages.py` describes; each service has its own, with typed calls and
results. A call is cancelled with its caller, fails after its time-out, and is lost with its stream, as an RPC is with
its connection. While there is no stream, callers make RPCs of their own.
"""
