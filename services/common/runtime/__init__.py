"""Processes: settings, signals, files, addresses and clocks."""
