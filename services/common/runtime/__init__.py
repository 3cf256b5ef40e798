"""The process environment: settings, signals, files, addresses and clocks."""
