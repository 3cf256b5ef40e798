"""The settings of `make run`, validated, in the form in which the supervisor uses them.

A plain class, because the supervisor does nothing most of the time and should not hold a library for it.
"""

from dataclasses import dataclass, field
from pathlib import Path

from services.common.runtime.address import Address, parse_address, reachable


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """Settings of the supervisor. `LocalSettings` documents those that have the same name there."""

    data_dir: Path
    gateway_host: str
    gateway_port: int
    auth_listen: str
    quota_listen: str
    inference_listen: str
    gateway_metrics_listen: str
    auth_metrics_listen: str
    quota_metrics_listen: str
    inference_metrics_listen: str
    workers: int
    """Number of processes that each run all four services; 0 runs each service as a separate process."""
    stop_seconds: float
    """Grace period for requests in flight at shutdown: GRACE_SECONDS if it is set, otherwise 5 s."""
    console: bool
    operator_console: bool
    operator_console_host: str
    operator_console_port: int
    has_groq_key: bool
    """Whether to use Groq instead of the local stand-in."""
    quota_redis_url: str = field(repr=False)
    has_responses_valkey: bool
    """Whether to run the second Valkey, for stored responses."""
    valkey_server: str
    admin_token: str = field(repr=False)
    explicit: frozenset[str]
    """Names of the settings that are set, not defaults."""

    @property
    def url(self) -> str:
        """URL of the API and the console on this machine."""
        return f"http://{Address(self.gateway_host, self.gateway_port).reachable}"

    @property
    def operator_console_url(self) -> str:
        """URL of the operators' console on this machine; empty if it does not run."""
        if not self.operator_console:
            return ""
        return f"http://{Address(self.operator_console_host, self.operator_console_port).reachable}"

    @property
    def targets(self) -> dict[str, str]:
        """Addresses at which this machine reaches the gRPC services, by service name."""
        return {
            "auth": reachable(self.auth_listen),
            "quota": reachable(self.quota_listen),
            "inference": reachable(self.inference_listen),
        }

    @property
    def metrics(self) -> dict[str, str]:
        """Addresses at which this machine reaches each process's metrics, by process name; empty if disabled."""
        return {name: listen and reachable(listen) for name, listen in self.metrics_listens.items()}

    @property
    def metrics_listens(self) -> dict[str, str]:
        """Listen address of each process's metrics, by process name. Workers use consecutive ports."""

        if self.workers:
            return {name: _shifted(self.gateway_metrics_listen, by) for by, name in enumerate(self.worker_names)}
        return {
            "gateway": self.gateway_metrics_listen,
            "auth": self.auth_metrics_listen,
            "quota": self.quota_metrics_listen,
            "inference": self.inference_metrics_listen,
        }

    @property
    def worker_names(self) -> tuple[str, ...]:
        """Names of the worker processes, also used for their log files."""
        return ("stack", *(f"stack-{number}" for number in range(2, self.workers + 1)))


def _shifted(address: str, by: int) -> str:
    """Return the address with `by` added to its port; an empty address stays empty."""
    return str(parse_address(address).shifted(by)) if address else ""
