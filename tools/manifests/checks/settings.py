"""The environment of each container: settings that its service has, with valid values."""

import json
from collections.abc import Iterator, Mapping

from pydantic import ValidationError

from services.auth.settings import AuthSettings
from services.common.runtime.settings import TLSSettings
from services.gateway.settings import GatewaySettings
from services.inference.settings import InferenceSettings
from services.quota.settings import QuotaSettings
from tools.manifests.objects import Object, Objects

_SETTINGS: Mapping[str, type[TLSSettings]] = {
    "services.auth": AuthSettings,
    "services.quota": QuotaSettings,
    "services.inference": InferenceSettings,
    "services.gateway": GatewaySettings,
}
_OWN_MACHINE = ("127.", "localhost", "unix:")


def known(objects: Objects) -> Iterator[str]:
    """Each variable is a setting of the service; a misspelt one would silently have no effect."""
    for title, kind, environment in _services(objects):
        unknown = environment.keys() - _names(kind)
        yield from (f"{title}: {name} is not a setting of this service" for name in sorted(unknown))


def taken(objects: Objects) -> Iterator[str]:
    """Each value is valid at the service's start; those from the operator's Secret are not known here."""
    for title, kind, environment in _services(objects):
        known = {name: value for name, value in environment.items() if not value.startswith("secret:")}
        aliases = {name: known[name] for name in _names(kind) & known.keys()}
        try:
            kind.model_validate(_by_field(kind, aliases))
        except ValidationError as exc:
            yield from (f"{title}: {one['loc'][0] if one['loc'] else 'settings'}: {one['msg']}" for one in exc.errors())


def listening(objects: Objects) -> Iterator[str]:
    """A service listens on its pod's declared ports, on every address, and not in plaintext with mTLS."""
    for workload in objects.workloads():
        for container in workload.containers if workload.kind == "Deployment" else ():
            environment = objects.environment(container)
            declared = {str(port["containerPort"]) for port in container.get("ports", ())}
            for name, value in _addresses(environment):
                if value.rpartition(":")[2] not in declared:
                    yield f"{workload.title}: {name} is a port that the pod does not declare"
                if value.startswith(_OWN_MACHINE):
                    yield f"{workload.title}: {name} cannot be reached from outside the pod"
            yield from (f"{workload.title}: {problem}" for problem in _mode(environment, declared))


def _addresses(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the listen settings, and their `host:port`."""
    yield from ((name, value) for name, value in environment.items() if name.endswith("_LISTEN") and value)
    if "GATEWAY_PORT" in environment:
        yield "GATEWAY_PORT", f"{environment.get('GATEWAY_HOST', '127.0.0.1')}:{environment['GATEWAY_PORT']}"


def _mode(environment: Mapping[str, str], declared: set[str]) -> Iterator[str]:
    is_secured, is_plain = "TLS_CERTIFICATE_FILE" in environment, environment.get("PLAINTEXT_ALLOWED") == "true"
    if is_secured and is_plain:
        yield "has certificates and would still serve without them"
    if declared and not is_secured and not is_plain and "GATEWAY_PORT" not in environment:
        yield "would refuse to start: neither certificates nor PLAINTEXT_ALLOWED"


def measured(objects: Objects) -> Iterator[str]:
    """A service with metrics serves them on the pod's port of that name."""
    for workload in objects.workloads():
        for container in workload.containers if workload.kind == "Deployment" else ():
            kind = _SETTINGS.get(_module(container))
            name = f"{kind.model_config.get('env_prefix', '')}METRICS_LISTEN" if kind else ""
            port = objects.environment(container).get(name, "").rpartition(":")[2]
            if kind and name in _names(kind) and port != str(workload.ports.get("metrics")):
                yield f"{workload.title}: {name} is not its port named metrics"


def mails(objects: Objects) -> Iterator[str]:
    """With mail, the sender is an address that mail servers accept."""
    for title, _, environment in _services(objects):
        sender = environment.get("AUTH_MAIL_FROM", "")
        if "AUTH_SMTP_URL" in environment and (not sender or sender.endswith((".localdomain", "@localhost"))):
            yield f"{title}: sends mail, but AUTH_MAIL_FROM is not a real address"


def _services(objects: Objects) -> Iterator[tuple[str, type[TLSSettings], dict[str, str]]]:
    for workload in objects.workloads():
        for container in workload.containers:
            kind = _SETTINGS.get(_module(container))
            if kind is not None:
                yield f"{workload.title}: {container['name']}", kind, objects.environment(container)


def _module(container: Object) -> str:
    return next((word for word in container.get("command", ()) if word.startswith("services.")), "")


def _names(kind: type[TLSSettings]) -> set[str]:
    prefix = kind.model_config.get("env_prefix", "")
    return {str(field.validation_alias or f"{prefix}{name}".upper()) for name, field in kind.model_fields.items()}


def _by_field(kind: type[TLSSettings], values: Mapping[str, str]) -> dict[str, object]:
    """Return the values as the settings parse them from an environment, JSON where a field is no scalar."""
    prefix = kind.model_config.get("env_prefix", "")
    found: dict[str, object] = {}
    for name, field in kind.model_fields.items():
        text = values.get(str(field.validation_alias or f"{prefix}{name}".upper()))
        if text is not None:
            found[name] = json.loads(text) if str(field.annotation).startswith(("list", "dict")) else text
    return found


CHECKS = (known, taken, listening, measured, mails)
