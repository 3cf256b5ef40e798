"""The supervisor of `make run`: start, watch, restart and stop the programs."""
