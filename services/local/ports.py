"""Selection of free ports for a stack on one machine."""

from dataclasses import replace
from typing import Any

from services.common.errors import StartError
from services.common.runtime.address import Address, bind, parse_address
from services.local.configuration import Configuration
from services.local.port_claims import PortClaims

_LISTENS = ("auth_listen", "quota_listen", "inference_listen")
_METRICS = ("gateway_metrics_listen", "auth_metrics_listen", "quota_metrics_listen", "inference_metrics_listen")
_STEP = 10
_STEPS_MAX = 100


def with_free_ports(settings: Configuration, claims: PortClaims) -> Configuration:
    """Return the settings with free ports in place of occupied internal ports that were not set explicitly.

    The API's port and ports that were set explicitly never change. All ports are claimed.

    Raises:
        StartError: A port that cannot change is occupied or cannot be shared. The message names the setting to change.
    """
    _check_shareable(settings)
    gateway = Address(settings.gateway_host, settings.gateway_port)
    _check("GATEWAY_PORT", [gateway], "GATEWAY_HOST and GATEWAY_PORT", claims)
    if settings.operator_console:
        console = Address(settings.operator_console_host, settings.operator_console_port)
        _check("OPERATOR_CONSOLE_PORT", [console], "OPERATOR_CONSOLE_HOST and OPERATOR_CONSOLE_PORT", claims)
    ports = dict.fromkeys((*_LISTENS, *(_METRICS[:1] if settings.workers else _METRICS)), 1)
    ports[_METRICS[0]] = max(1, settings.workers)
    chosen: set[int] = {settings.gateway_port, settings.operator_console_port}
    changes: dict[str, Any] = {
        field: _free_address(settings, field, count, chosen, claims) for field, count in ports.items()
    }
    return replace(settings, **changes)


def _free_address(settings: Configuration, field: str, ports: int, chosen: set[int], claims: PortClaims) -> str:
    """Return the address of a setting, or a free one with a higher port.

    It is the first of `ports` consecutive ports, all of them free.
    """
    text: str = getattr(settings, field)
    if not text or text.startswith("unix:"):
        return text
    wanted = parse_address(text)
    if field in settings.explicit:
        _check(_variable(field), [wanted.shifted(by) for by in range(ports)], _variable(field), claims)
        return text
    for step in range(_STEPS_MAX):
        addresses = [wanted.shifted(step * _STEP + by) for by in range(ports)]
        if all(one.port not in chosen and _is_free(one, claims) for one in addresses):
            chosen.update(one.port for one in addresses)
            return str(addresses[0])
    raise StartError(
        f"No free port was found for {_variable(field)}, starting at {wanted}. Set it to a free host:port."
    )


def _check(setting: str, addresses: list[Address], remedy: str, claims: PortClaims) -> None:
    for address in addresses:
        try:
            _check_bindable(address, claims)
        except StartError as exc:
            cause = str(exc).rstrip(".")
            raise StartError(
                f"{setting} is not usable: {cause}. Stop the process that uses it, or set {remedy} to another address."
            ) from exc


def _is_free(address: Address, claims: PortClaims) -> bool:
    try:
        _check_bindable(address, claims)
    except StartError:
        return False
    return True


def _check_bindable(address: Address, claims: PortClaims) -> None:
    if address.port > 65_535:
        raise StartError(f"the port of {address} is above 65535")
    if not claims.claim(address.port):
        raise StartError(f"another stack that is starting uses the port of {address}")
    for one in bind(address):
        one.close()


def _check_shareable(settings: Configuration) -> None:
    for field in _LISTENS:
        address: str = getattr(settings, field)
        if settings.workers > 1 and address.startswith("unix:"):
            raise StartError(
                f"{_variable(field)}={address} is a Unix socket, which cannot be shared by "
                f"STACK_WORKERS={settings.workers} processes. Set it to a host:port, or set STACK_WORKERS to 1."
            )


def _variable(field: str) -> str:
    return field.upper()
