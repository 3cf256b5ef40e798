"""Names of settings, metrics and protobuf use the words of docs/glossary.md, and no word that was replaced."""

import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path

import pytest
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FileDescriptor
from prometheus_client.metrics import MetricWrapperBase

from services.auth import metrics as auth_metrics
from services.auth.settings import AuthSettings
from services.common.concurrency import batch
from services.common.rpc import interceptors
from services.common.rpc.multiplex import client as multiplex_client
from services.common.runtime.settings import ServiceSettings
from services.common.telemetry import log
from services.gateway import metrics as gateway_metrics
from services.gateway.settings import GatewaySettings
from services.inference import metrics as inference_metrics
from services.inference.settings import InferenceSettings
from services.local.settings import LocalSettings
from services.operator_console.settings import OperatorConsoleSettings
from services.quota import metrics as quota_metrics
from services.quota.settings import QuotaSettings

_ROOT = Path(__file__).parents[2]
_SETTINGS = (
    ServiceSettings,
    GatewaySettings,
    AuthSettings,
    QuotaSettings,
    InferenceSettings,
    LocalSettings,
    OperatorConsoleSettings,
)
_METRICS = (auth_metrics, gateway_metrics, quota_metrics, inference_metrics, batch, interceptors, multiplex_client, log)
_MIRRORED = "stack/inference/v1/chat.proto"
"""Its fields have the names of OpenAI's and Groq's JSON."""

_COMMON_WORDS = """
100 80 above accepted action active add address after age all allowed answer applied apply arg as at auth authenticate
authenticated base batch before begin below body by byte ca cached call caller cancelled certificate change changed
character chat check choice chunk client clock close closed cluster code commit complete completed completion
concurrency concurrent confirm connect connection console contact content context cors count create created current
cursor daily data database default definition delete deleted delta denied describe description detail digest dir disable
disabled domain dropped duplicate duration email enable enabled encrypted end ended endpoint error event excluded
expired expires expiry exporter extension extra failed failure file find first five flight fold format from function
gateway generation get groq group has head health host hour hsts http id idle ignored image implausible in include index
inference ins interval invalid is issuer item json kind label last left length level limit list listen log logo look
mail mask max message method metric million minute mismatched mode model month ms name nesting new next number object
offset ok oldest open option order origin otel otlp out output over own owned page param parameter part partial password
path per period permitted plaintext policy port prefix previous pro prompt proxy public queue quota ratio reason
reasoning receiving record redis refused rejected remove removed rename replace replaced request reset resolve response
result retry reuse role round route row rpc running sampler scan schema search second secret send sent sentinel server
service set settings sign signature since size smtp smtputf8 source stack stale start state status step stop stream
string summarize summary sums system target terms test text time timeout timestamp tls to token tokenizers tool top
total trace trusted type unavailable unknown unreachable unreadable unspecified up update upgrade ups url usable usage
use used user valkey value verification verified verify version wait waiting wants window with without
"""
_COMMON = frozenset(_COMMON_WORDS.split())
"""Technical words that need no definition."""
_REPLACED = {
    "lifeline": "revocation",
    "presence": "disconnect",
    "leaver": "abandoned",
    "write_off": "abandoned",
    "bad_key": "negative key cache",
    "guesser": "unknown key limiter",
    "principals_max": "auth cache",
    "authority": "auth client",
    "wish": "reservation",
    "aloft": "in flight",
    "flights_max": "concurrent batches",
    "overtake": "wait",
    "fate": "outcome, or policy of a parameter",
    "farewell": "connection: close",
    "door": "auth client",
    "stay": "session",
    "visit": "request context",
    "belonging": "session scope",
    "crowd": "bulkhead",
    "kick": "notify",
    "letter": "email",
    "post": "mailer",
    "keyring": "key service",
    "gatekeeper": "key verifier",
    "demand": "check",
    "place": "semaphore",
    "outbox": "stream buffer",
    "unheard": "empty",
    "piece": "output chunk",
    "supply": "key pool, or wait for a key",
    "rest": "cooldown",
    "distrust": "quarantine",
    "herd": "jitter",
    "wire": "transport",
    "silence": "idle timeout",
    "turn": "lease",
    "seed": "initial count",
    "raise": "repair",
    "raised": "repaired",
    "finding": "discrepancy",
    "disagreement": "discrepancy",
    "late_row": "rows after close",
    "patient": "failover",
    "retired": "draining",
    "renewed": "reloading",
    "sibling": "reuse port",
    "trace_ratio": "OTEL_TRACES_SAMPLER_ARG",
    "beside": "default",
    "word": "label",
    "person": "user",
}
"""Words of earlier versions, and what takes their place."""


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case, in any naming style."""
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    name = re.sub(r"([A-Z])([A-Z][a-z])", r"\1_\2", name)
    return [word for word in name.lower().split("_") if word]


def _singulars(word: str) -> set[str]:
    """Return a word, and its possible singulars."""
    found = {word, word.removesuffix("s"), word.removesuffix("es")}
    return found | {word.removesuffix("ies") + "y"} if word.endswith("ies") else found


def _terms() -> list[str]:
    """Return the terms of the glossary, each form of a word by itself."""
    text = (_ROOT / "docs" / "glossary.md").read_text()
    cells = re.findall(r"^\| (?!word \|)([\w ,-]+) \| .+ \|$", text, re.MULTILINE)
    return [term for cell in cells for term in cell.lower().split(", ")]


def _glossary() -> frozenset[str]:
    return frozenset(word for term in _terms() for word in re.split(r"[ -]", term))


def _unknown_words(name: str) -> list[str]:
    """Return the words of a name that are neither in the glossary nor common technical words."""
    allowed = _glossary() | _COMMON
    return [word for word in _words(name) if not _singulars(word) & allowed]


def _replaced(name: str) -> list[str]:
    """Return the replaced words in a name."""
    words = _words(name)
    return [old for old in _REPLACED if _has(words, old.split("_"))]


def _has(words: list[str], parts: list[str]) -> bool:
    starts = range(len(words) - len(parts) + 1)
    return any(
        all(_singulars(one) & _singulars(part) for one, part in zip(words[start:], parts, strict=False))
        for start in starts
    )


def _setting_names() -> Iterator[str]:
    for kind in _SETTINGS:
        prefix = str(kind.model_config.get("env_prefix", ""))
        for name, field in kind.model_fields.items():
            yield str(field.validation_alias or f"{prefix}{name}".upper())


def _metric_names() -> Iterator[str]:
    for module in _METRICS:
        for one in vars(module).values():
            if isinstance(one, MetricWrapperBase):
                (family,) = one.describe()
                yield family.name
                yield from one._labelnames


def _files() -> Iterator[FileDescriptor]:
    for path in sorted((_ROOT / "protos").rglob("*.proto")):
        name = path.relative_to(_ROOT / "protos").with_suffix("").as_posix()
        yield import_module(f"{name.replace('/', '.')}_pb2").DESCRIPTOR


def _proto_names() -> Iterator[str]:
    for file in _files():
        for message in file.message_types_by_name.values():
            yield from _message_names(message)
        for enum in file.enum_types_by_name.values():
            yield from _enum_names(enum)
        for service in file.services_by_name.values():
            yield service.name
            yield from (method.name for method in service.methods)


def _message_names(message: Descriptor) -> Iterator[str]:
    if message.GetOptions().map_entry:
        return
    yield message.name
    if message.file.name != _MIRRORED:
        yield from (field.name for field in message.fields)
    for nested in message.nested_types:
        yield from _message_names(nested)
    for enum in message.enum_types:
        yield from _enum_names(enum)


def _enum_names(enum: EnumDescriptor) -> Iterator[str]:
    yield enum.name
    yield from (value.name for value in enum.values)


def _names() -> set[str]:
    return {*_setting_names(), *_metric_names(), *_proto_names()}


def test_names_are_found_in_settings_metrics_and_protobuf() -> None:
    assert {"QUOTA_HOLD_SECONDS", "stack_ledger_rows_waiting", "WatchKeys", "RESERVE_OUTCOME_HELD"} <= _names()
    assert {"hold", "held", "sweeper", "ledger", "pepper", "lease", "verdict", "receipt"} <= _glossary()


def test_names_use_words_of_the_glossary_and_common_technical_words() -> None:
    strange = {name: words for name in _names() if (words := _unknown_words(name))}
    assert strange == {}, "add the word to docs/glossary.md, or use one that is listed there"


def test_no_name_uses_a_replaced_word() -> None:
    replaced = {name: words for name in _names() if (words := _replaced(name))}
    assert replaced == {}, f"use instead: { {word: _REPLACED[word] for words in replaced.values() for word in words} }"


def test_the_glossary_lists_each_word_once_and_no_replaced_one() -> None:
    assert sorted(_terms()) == sorted(set(_terms()))
    assert [term for term in _terms() if _replaced(term.replace(" ", "_"))] == []


@pytest.mark.parametrize(
    ("name", "strange", "replaced"),
    [
        ("GATEWAY_LEAVERS_MAX", ["leavers"], ["leaver"]),
        ("HAS_SIBLINGS", ["siblings"], ["sibling"]),
        ("stack_quota_wishes_total", ["wishes"], ["wish"]),
        ("ReserveWish", ["wish"], ["wish"]),
        ("GATEWAY_PRINCIPALS_MAX", [], ["principals_max"]),
        ("INFERENCE_ZEBRAS_MAX", ["zebras"], []),
        ("GATEWAY_AUTH_CACHE_MAX", [], []),
        ("GetOwnPrincipalRequest", [], []),
    ],
)
def test_a_name_outside_the_vocabulary_is_found(name: str, strange: Iterable[str], replaced: Iterable[str]) -> None:
    assert (_unknown_words(name), _replaced(name)) == (strange, replaced)
