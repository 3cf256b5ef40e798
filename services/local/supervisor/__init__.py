"""The supervisor of `make run`: starts, monitors, restarts and stops the programs."""
