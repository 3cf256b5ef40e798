"""The ports of a stack on one machine: free, and shared where they must be, before anything is started."""

from services.common.errors import StartError
from services.common.runtime.address import Address, bind, parse_address
from services.local.settings import LocalSettings

_LISTENS = ("auth_listen", "quota_listen", "inference_listen")
_METRICS = ("gateway_metrics_listen", "auth_metrics_listen", "quota_metrics_listen", "inference_metrics_listen")
_STEP = 10
_STEPS_MAX = 100


def with_free_ports(settings: LocalSettings) -> LocalSettings:
    """Return the settings with other internal ports in place of those that are taken and were not set.

    A port that was set stays; so does the API's, which people know.

    Raises:
        StartError: A port that stays is taken or cannot be shared; the sentence names the setting to change.
    """
    _check_shareable(settings)
    _check("GATEWAY_PORT", [Address(settings.gateway_host, settings.gateway_port)], "GATEWAY_HOST and GATEWAY_PORT")
    ports = dict.fromkeys((*_LISTENS, *(_METRICS[:1] if settings.workers else _METRICS)), 1)
    ports[_METRICS[0]] = max(1, settings.workers)
    chosen: set[int] = {settings.gateway_port}
    changes = {field: _free(settings, field, count, chosen) for field, count in ports.items()}
    return settings.model_copy(update=changes)


def _free(settings: LocalSettings, field: str, ports: int, chosen: set[int]) -> str:
    """Return the address of a setting, or a free one with a later port; it and the following are `ports` in all."""
    text: str = getattr(settings, field)
    if not text or text.startswith("unix:"):
        return text
    wanted = parse_address(text)
    if field in settings.model_fields_set:
        _check(_variable(field), [wanted.shifted(by) for by in range(ports)], _variable(field))
        return text
    for step in range(_STEPS_MAX):
        addresses = [wanted.shifted(step * _STEP + by) for by in range(ports)]
        if all(one.port not in chosen and _is_free(one) for one in addresses):
            chosen.update(one.port for one in addresses)
            return str(addresses[0])
    raise StartError(f"no free port for {_variable(field)} from {wanted} on; set it to another host:port")


def _check(setting: str, addresses: list[Address], remedy: str) -> None:
    for address in addresses:
        try:
            _try(address)
        except StartError as exc:
            raise StartError(f"{setting}: {exc}; stop what uses it, or set {remedy} to another") from exc


def _is_free(address: Address) -> bool:
    try:
        _try(address)
    except StartError:
        return False
    return True


def _try(address: Address) -> None:
    if address.port > 65_535:
        raise StartError(f"{address} has no such port; set a lower one")
    for one in bind(address):
        one.close()


def _check_shareable(settings: LocalSettings) -> None:
    for field in _LISTENS:
        address: str = getattr(settings, field)
        if settings.workers > 1 and address.startswith("unix:"):
            raise StartError(
                f"{_variable(field)}={address} cannot be shared by STACK_WORKERS={settings.workers}; set it to a "
                "host:port, or STACK_WORKERS to 1"
            )


def _variable(field: str) -> str:
    return str(LocalSettings.model_fields[field].validation_alias)
