"""HTTP/1.1 client for one server, with a pool of connections. It knows nothing about Groq."""
