"""HTTP APIs: one folder per surface, which parses requests and renders responses."""
