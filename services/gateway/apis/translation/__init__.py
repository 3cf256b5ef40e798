"""Translation between other APIs and chat completions, shared by the surfaces."""
