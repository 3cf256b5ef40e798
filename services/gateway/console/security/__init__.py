"""Limits of console requests: how many run at the same time, and which clients auth has limited."""
