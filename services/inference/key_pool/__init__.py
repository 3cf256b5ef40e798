"""The operator's Groq keys: pool, checks and circuit breakers."""
