"""The chat completions API: parameters, messages and limits of a request."""
