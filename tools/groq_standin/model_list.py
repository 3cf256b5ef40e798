"""Answers of `GET /openai/v1/models`, as selected with `PUT /model-list?answer=…`."""

from tools.groq_standin import catalogue, errors, wire
from tools.groq_standin.encodings import UNCLEAN_TEXTS, corrupt, unclean_pieces
from tools.groq_standin.exchange import Exchange

_HANG_MS = 300_000
_BIG_BYTES = 2 * 1024 * 1024
KINDS = frozenset({"ordinary", "unclean", "text", "object", "big", "503", "hang"})
"""`unclean` has elements of all types and invalid Unicode; `text` is not JSON; `object` is JSON without a list; `big`
is an ordinary list of 2 MB; `503` is an error; `hang` does not answer for 300 s."""


class ModelList:
    """The endpoint of the model list, with its current kind of answer.

    Attributes:
        kind: One of `KINDS`.
        requests: Number of requests.
    """

    def __init__(self) -> None:
        self.kind = "ordinary"
        self.requests = 0

    def as_wire(self) -> dict[str, object]:
        """Return the body of `GET /model-list`."""
        return {"answer": self.kind, "requests": self.requests}

    async def body(self, exchange: Exchange) -> bytes:
        """Return the body of an answer with status 200.

        Raises:
            Refused: The kind is `503`.
            ClientLeft: The client disconnected during a hang.
        """
        self.requests += 1
        kind = self.kind
        match kind:
            case "hang":
                await exchange.pause(_HANG_MS)
            case "503":
                raise errors.Refused(errors.REFUSALS["503"](errors.Asked("", 0)))
            case "text":
                return b"<html>no models</html>"
            case "object":
                return b"{}\n"
        odd = _unclean() if kind == "unclean" else _padding() if kind == "big" else []
        models: list[object] = [model.as_wire() for model in catalogue.MODELS.values()]
        return corrupt(wire.document({"object": "list", "data": [*odd, *models]}))


def _unclean() -> list[object]:
    names = ["".join(unclean_pieces(kind)) for kind in sorted(UNCLEAN_TEXTS)]
    return [*({"id": name} for name in names), {"id": 5}, {"id": ""}, {}, "model", 7, None, []]


def _padding() -> list[object]:
    return [{"id": f"padding-{number}", "name": "x" * 1_000} for number in range(_BIG_BYTES // 1_000)]
