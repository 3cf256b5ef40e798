"""Client of Groq's HTTP API: transport, decoding, errors and rate limits."""
