"""`langchain-openai`, with our base URL."""
# mypy: disable-error-code="import-not-found,untyped-decorator"

import openai
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.clients.programs.langchain_chat import Scenarios
from tests.clients.programs.report import MODEL, run


def build(base_url: str, secret: str, model: str = MODEL) -> ChatOpenAI:
    """Return a chat model; with a base URL it requests a stream's usage only if configured to."""
    return ChatOpenAI(model=model, base_url=f"{base_url}/v1", api_key=SecretStr(secret), stream_usage=True)


if __name__ == "__main__":
    run("langchain-openai", Scenarios(build, openai.OpenAIError).by_name())
