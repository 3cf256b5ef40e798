"""`langchain-groq`, with our base URL."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import groq
from langchain_groq import ChatGroq
from pydantic import SecretStr

from tests.clients.programs.langchain_chat import Scenarios
from tests.clients.programs.report import MODEL, run


def build(base_url: str, secret: str, model: str = MODEL) -> ChatGroq:
    """Return a chat model."""
    return ChatGroq(model=model, base_url=base_url, api_key=SecretStr(secret))


if __name__ == "__main__":
    run("langchain-groq", Scenarios(build, groq.GroqError).by_name())
