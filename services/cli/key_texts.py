"""What operators give to find keys: the visible part of a secret, or the secret itself on standard input."""

import re
import sys

import click

from services.cli.failures import Failure
from services.cli.usage_errors import Mistake

_SECRET = re.compile(r"sk_stk_[0-9A-Za-z]{20,}")
_ELLIPSES = ("…", "...")
_SECRET_BYTES_MAX = 1_024


def visible_text(text: str) -> str:
    """Return the text to search for, without the ellipsis that the console shows after the visible part of a secret.

    Raises:
        Mistake: The text is a whole secret, which other users of the machine can see in the list of processes.
    """
    if _SECRET.search(text):
        raise Mistake(
            "This looks like a whole secret, which is now in your shell's history and visible to other users of this "
            "machine. Give secrets on standard input only: stackctl keys find --secret"
        )
    for ellipsis in _ELLIPSES:
        text = text.removesuffix(ellipsis)
    return text


def read_secret() -> str:
    """Read one line from standard input; hidden, if it is a terminal.

    Raises:
        Failure: There is none, or it is not text.
    """
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    text = click.prompt("Secret", hide_input=True, err=True) if is_terminal else _line()
    if not (secret := text.strip()):
        raise Failure("There is no secret on standard input. Give it in one line.")
    if not (secret.isascii() and secret.isprintable()):
        raise Failure("Standard input has characters that no secret has. Give the secret alone, in one line.")
    return str(secret)


def _line() -> str:
    """Return the first line of standard input, with U+FFFD in place of what is not text."""
    line = sys.stdin.buffer.readline(_SECRET_BYTES_MAX) if sys.stdin is not None else b""
    return line.decode(errors="replace")
