"""The interface of everything that the benchmark measures."""

from collections.abc import Mapping
from typing import Protocol


class Contender(Protocol):
    """A program between a client and Groq."""

    @property
    def name(self) -> str:
        """Name in tables and files."""

    @property
    def version(self) -> str:
        """Version and configuration, so that the measurement can be repeated."""

    @property
    def features(self) -> str:
        """Its limits and accounting that are on, as a phrase."""

    @property
    def surfaces(self) -> tuple[str, ...]:
        """Paths of the surfaces that it serves, other than chat completions."""

    @property
    def model(self) -> str:
        """This program's name for Groq's `openai/gpt-oss-20b`."""

    @property
    def url(self) -> str:
        """URL for chat requests."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of the client's requests."""

    @property
    def parts(self) -> Mapping[str, int]:
        """Its processes by name; the cost includes all of them and their children."""

    def start(self) -> None:
        """Start it and return when it answers.

        Raises:
            DidNotStart: It does not start, or does not answer.
        """

    def stop(self) -> None:
        """Stop all of its processes."""

    def charged(self) -> int | None:
        """Return how many requests it has charged so far, once all are settled; None if that is not checked."""


def name_of(program: str, workers: int) -> str:
    """Return the name of a program with a number of workers; one is not mentioned."""
    return program if workers == 1 else f"{program}, {workers} workers"
