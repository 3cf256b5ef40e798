"""Clocks that step, which only `make test-clocks` collects: libfaketime is Debian's package."""

import os

collect_ignore_glob = [] if os.environ.get("CLOCKS") else ["*"]
