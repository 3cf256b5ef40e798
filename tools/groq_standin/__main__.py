"""Command line of the stand-in: `python -m tools.groq_standin --host 127.0.0.1 --port 9090`."""

import argparse
import sys
from collections.abc import Sequence

from tools.groq_standin.chat import Settings
from tools.groq_standin.limits import LimitSettings
from tools.groq_standin.server import bind, inherit, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stand-in and return its exit status."""
    options = _parser().parse_args(arguments)
    settings = Settings(
        keys=frozenset(options.api_key),
        token_delay_ms=options.token_delay_ms,
        first_token_delay_ms=options.first_token_delay_ms,
        allow_logprobs=options.allow_logprobs,
        refuse_names=options.refuse_names,
        journal_size=options.journal_size,
        journal_bodies=options.journal_bodies,
        limits=LimitSettings(
            requests_per_minute=options.requests_per_minute,
            requests_per_day=options.requests_per_day,
            tokens_per_minute=options.tokens_per_minute,
            tokens_per_day=options.tokens_per_day,
            minute_seconds=options.minute_seconds,
        ),
    )
    try:
        listener = bind(options.host, options.port) if options.descriptor is None else inherit(options.descriptor)
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        where = f"{options.host}:{options.port}"
        print(f"groq stand-in: cannot listen on {where}: {reason}; choose another --port", file=sys.stderr)
        return 1
    run(listener, settings)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.groq_standin", description="Run a stand-in for Groq's API.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default %(default)s)")
    add("--port", type=int, default=9090, help="port to listen on, 0 for a free one (default %(default)s)")
    add("--descriptor", type=_natural, metavar="N", help="listen on this inherited socket instead of a host and port")
    add("--api-key", action="append", default=[], metavar="KEY", help="accept only this key; may be repeated")
    add("--token-delay-ms", type=_natural, default=0, metavar="N", help="pause between streamed tokens")
    add("--first-token-delay-ms", type=_natural, default=0, metavar="N", help="pause before the first token")
    add("--allow-logprobs", action="store_true", help="accept logprobs, top_logprobs and logit_bias")
    add("--refuse-names", action="store_true", help="refuse messages[].name")
    add("--journal-size", type=_natural, default=200_000, metavar="N", help="entries the journal keeps")
    add("--journal-bodies", type=_natural, default=1_000, metavar="N", help="entries that keep their request body")
    for unit in ("requests", "tokens"):
        for window in ("minute", "day"):
            text = f"enforce a limit of {unit} per {window} for each key and model (default: none)"
            add(f"--{unit}-per-{window}", type=_natural, default=0, metavar="N", help=text)
    add("--minute-seconds", type=float, default=60.0, metavar="S", help="length of a minute (default %(default)s)")
    return parser


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


if __name__ == "__main__":
    sys.exit(main())
