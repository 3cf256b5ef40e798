"""The id of a request, which responses and logs contain."""

REQUEST_ID = "stack.request_id"
"""ASGI scope key of the request id that the response will contain. It changes when a reservation is retried."""
