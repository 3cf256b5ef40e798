"""LlamaIndex's `OpenAILike` at `/v1/completions`, which is its default for models that it does not know."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

from typing import Any

import openai
from llama_index.llms.openai_like import OpenAILike

from tests.clients.programs import cases
from tests.clients.programs.report import MODEL, Seen, failure, run


def _model(base_url: str, secret: str) -> Any:
    # By default it repeats a 429 twice, each time after `retry-after`, but at most two minutes.
    return OpenAILike(model=MODEL, api_base=f"{base_url}/v1", api_key=secret, context_window=131_072, max_retries=1)


def text(base_url: str, secret: str) -> Seen:
    """Request a whole completion."""
    return {"text": _model(base_url, secret).complete(cases.hello(secret)).text}


def stream(base_url: str, secret: str) -> Seen:
    """Request a stream."""
    pieces = [piece.delta for piece in _model(base_url, secret).stream_complete(cases.hello(secret)) if piece.delta]
    return {"pieces": pieces, "text": "".join(pieces)}


def cut(base_url: str, secret: str) -> Seen:
    """Read a stream that breaks."""
    pieces: list[str] = []

    def read() -> None:
        answer = _model(base_url, secret).stream_complete(cases.cut(secret))
        pieces.extend(piece.delta for piece in answer if piece.delta)

    return {"error": failure(read, Exception), "pieces": pieces}


def exhausted(base_url: str, secret: str) -> Seen:
    """Use a key's only slot, and call once more."""
    return {"first": text(base_url, secret), "second": failure(lambda: text(base_url, secret), openai.OpenAIError)}


if __name__ == "__main__":
    scenarios = (text, stream, cut, exhausted)
    run("llama-index-llms-openai-like", {scenario.__name__: scenario for scenario in scenarios})
