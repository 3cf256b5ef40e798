"""The chat completions API: the request's parameters, messages and limits."""
