"""HTTP APIs. Each package parses the requests of one API and renders its responses."""
