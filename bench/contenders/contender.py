"""What the benchmark wants of anything that it measures."""

from collections.abc import Mapping
from typing import Protocol


class Contender(Protocol):
    """Something between a client and Groq."""

    @property
    def name(self) -> str:
        """Name in tables and files."""

    @property
    def version(self) -> str:
        """What was measured, for whoever repeats it."""

    @property
    def model(self) -> str:
        """What a client calls Groq's `openai/gpt-oss-20b` here."""

    @property
    def url(self) -> str:
        """Where chat requests go."""

    @property
    def headers(self) -> Mapping[str, str]:
        """What a client sends with a request."""

    @property
    def parts(self) -> Mapping[str, int]:
        """Its processes by name; the cost of all of them and of their children is counted."""

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It does not.
        """

    def stop(self) -> None:
        """End all of its processes."""

    def charged(self) -> int | None:
        """Return for how many requests it has charged until now, once it has settled; None when it does not count."""
