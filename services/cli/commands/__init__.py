"""The commands of `stackctl`, one module per topic."""
