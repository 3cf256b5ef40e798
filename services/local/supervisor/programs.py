"""Command lines and environments of the programs of a stack on one machine."""

import os
import socket
import sys
from pathlib import Path
from urllib.parse import quote

from services.common.errors import StartError
from services.common.runtime.private_files import make_private_folder
from services.local import valkey
from services.local.configuration import Configuration
from services.local.supervisor.child import Program

_STANDIN = "groq-standin"
_STANDIN_KEY = "gsk_local_standin"
_PLAINTEXT = dict.fromkeys(("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE", "TLS_CA_FILE", "HEALTH_LISTEN"), "")
"""Traffic stays on the machine, and certificates in the environment usually belong to the operator of a cluster."""


def stores(settings: Configuration, *, sockets: Path) -> list[Program]:
    """Return the embedded Valkey servers, which must respond before the services start.

    There is none for counters if QUOTA_REDIS_URL is set, and one for stored responses only if it is wanted.
    """
    programs = []
    if not settings.quota_redis_url:
        data = _data_folder(settings, valkey.FOLDER)
        server = valkey.find_server(settings.valkey_server)
        programs.append(Program("valkey", valkey.command(server, socket=sockets / valkey.SOCKET, data=data)))
    if settings.has_responses_valkey:
        data = _data_folder(settings, valkey.RESPONSES)
        server, socket = valkey.find_server(settings.valkey_server), sockets / valkey.RESPONSES_SOCKET
        programs.append(Program(valkey.RESPONSES, valkey.responses_command(server, socket=socket, data=data)))
    return programs


def _data_folder(settings: Configuration, name: str) -> Path:
    folder = settings.data_dir / name
    try:
        make_private_folder(folder)
    except OSError as exc:
        raise StartError(
            f"Cannot write to {folder}: {exc.strerror}. Move it, or set DATA_DIR to another folder."
        ) from exc
    return folder


def standin(port: int) -> Program:
    """Return the local stand-in for Groq."""
    return Program(_STANDIN, _module("tools.groq_standin", "--port", str(port)))


def listening_standin(listener: socket.socket) -> Program:
    """Return the local stand-in for Groq, which accepts the connections of `listener`."""
    descriptor = listener.fileno()
    command = _module("tools.groq_standin", "--descriptor", str(descriptor))
    return Program(_STANDIN, command, descriptors=(descriptor,))


def services(settings: Configuration, *, sockets: Path, groq_base_url: str) -> list[Program]:
    """Return the four services as separate programs, in start order.

    Args:
        settings: Settings of the stack.
        sockets: Folder of Valkey's socket.
        groq_base_url: URL of the stand-in; empty uses Groq as configured in the environment.
    """
    common = _common(settings)
    return [
        _service(name, common | own)
        for name, own in _environments(settings, sockets=sockets, groq_base_url=groq_base_url).items()
    ]


def workers(settings: Configuration, *, sockets: Path, groq_base_url: str) -> list[Program]:
    """Return the processes that each run all four services; empty if STACK_WORKERS is 0.

    The arguments are those of `services`.
    """
    if not settings.workers:
        return []
    everything = _common(settings) | {"REUSE_PORT": str(settings.workers > 1)}
    for own in _environments(settings, sockets=sockets, groq_base_url=groq_base_url).values():
        everything |= own
    # A process has one set of metrics for all of its services.
    everything |= dict.fromkeys(("AUTH_METRICS_LISTEN", "QUOTA_METRICS_LISTEN", "INFERENCE_METRICS_LISTEN"), "")
    return [
        _program(name, "services.local.worker", everything | {"GATEWAY_METRICS_LISTEN": metrics})
        for name, metrics in settings.metrics_listens.items()
    ]


def operator_console(settings: Configuration) -> list[Program]:
    """Return the operators' console; empty if it is not wanted."""
    if not settings.operator_console:
        return []
    own = {
        "OPERATOR_CONSOLE_HOST": settings.operator_console_host,
        "OPERATOR_CONSOLE_PORT": str(settings.operator_console_port),
        "OPERATOR_CONSOLE_GATEWAY_URL": settings.url,
    }
    return [_program("operator-console", "services.operator_console", _common(settings) | own)]


def _common(settings: Configuration) -> dict[str, str]:
    return {
        "DATA_DIR": str(settings.data_dir),
        "DRAIN_SECONDS": "0",  # There is no other replica for callers to switch to.
        "GRACE_SECONDS": str(settings.stop_seconds),
        **{f"{name.upper()}_TARGET": target for name, target in settings.targets.items()},
    }


def _environments(settings: Configuration, *, sockets: Path, groq_base_url: str) -> dict[str, dict[str, str]]:
    """Return the environment of each service, in start order."""
    upstream = {"GROQ_BASE_URL": groq_base_url, "GROQ_API_KEY": _STANDIN_KEY} if groq_base_url else {}
    return {
        "auth": {
            "AUTH_LISTEN": settings.auth_listen,
            "AUTH_METRICS_LISTEN": settings.auth_metrics_listen,
            "AUTH_CONSOLE_URL": os.environ.get("AUTH_CONSOLE_URL") or settings.url,
        },
        "inference": {
            "INFERENCE_LISTEN": settings.inference_listen,
            "INFERENCE_METRICS_LISTEN": settings.inference_metrics_listen,
            **_shared_allowance(settings, sockets / valkey.SOCKET),
            **(_embedded_responses(sockets / valkey.RESPONSES_SOCKET) if settings.has_responses_valkey else {}),
            **upstream,
        },
        "quota": {
            "QUOTA_LISTEN": settings.quota_listen,
            "QUOTA_METRICS_LISTEN": settings.quota_metrics_listen,
            **(
                {"QUOTA_REDIS_URL": settings.quota_redis_url}
                if settings.quota_redis_url
                else _embedded(sockets / valkey.SOCKET)
            ),
        },
        "gateway": {
            "GATEWAY_HOST": settings.gateway_host,
            "GATEWAY_PORT": str(settings.gateway_port),
            "GATEWAY_METRICS_LISTEN": settings.gateway_metrics_listen,
        },
    }


def _embedded(socket: Path) -> dict[str, str]:
    """Return the settings for the embedded Valkey, which has no password."""
    none = {"QUOTA_REDIS_USER": "", "QUOTA_REDIS_PASSWORD": "", "QUOTA_REDIS_SENTINELS": "[]"}
    return {"QUOTA_REDIS_URL": f"unix://{quote(str(socket))}", "QUOTA_REDIS_CLUSTER": "false", **none}


def _shared_allowance(settings: Configuration, socket: Path) -> dict[str, str]:
    """Return the settings with which several workers share their view of Groq's limits; a single one needs no Redis."""
    is_wanted = settings.workers > 1 and "INFERENCE_REDIS_URL" not in os.environ and not settings.quota_redis_url
    return {"INFERENCE_REDIS_URL": f"unix://{quote(str(socket))}"} if is_wanted else {}


def _embedded_responses(socket: Path) -> dict[str, str]:
    """Return the settings for the second embedded Valkey, which has no password."""
    none = {"INFERENCE_RESPONSES_REDIS_USER": "", "INFERENCE_RESPONSES_REDIS_PASSWORD": ""}
    return {"INFERENCE_RESPONSES_REDIS_URL": f"unix://{quote(str(socket))}", **none}


def _service(name: str, environment: dict[str, str]) -> Program:
    return _program(name, f"services.{name}", environment)


def _program(name: str, module: str, environment: dict[str, str]) -> Program:
    return Program(name, _module(module), _PLAINTEXT | environment)


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", name, *arguments)
