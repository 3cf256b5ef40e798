"""HTTP APIs. Each package is a surface: it parses the requests of one API and renders its responses (surfaces.py)."""
