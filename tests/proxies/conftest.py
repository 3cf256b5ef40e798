"""The console behind real proxies. Only `make test-proxies` runs these: they need Debian's nginx and Caddy."""

import os

if not os.environ.get("PROXIES"):
    collect_ignore_glob = ["test_*.py"]
