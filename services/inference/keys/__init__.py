"""The operator's Groq keys: selection, checks and circuit breakers."""
