"""Installations of a clone, which only `make test-install` collects: they need a package index and minutes."""

import os

collect_ignore_glob = [] if os.environ.get("INSTALL") else ["*"]
