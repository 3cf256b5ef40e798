"""The metrics exported by the services of a stack."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import httpx
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import Stack, stack_folder, started
from tests.ports import free_port

SERVICES = ("gateway", "auth", "quota", "inference")


class Metrics:
    """The metrics of all four services, refreshed by `read`."""

    def __init__(self, ports: dict[str, int]) -> None:
        self.ports = ports

    def text(self, service: str) -> str:
        """Return one service's metrics, as Prometheus parses them."""
        answer = httpx.get(f"http://127.0.0.1:{self.ports[service]}/metrics", trust_env=False, timeout=5)
        assert answer.status_code == 200, answer.text
        return answer.text

    def families(self) -> list[Metric]:
        """Return all metrics of all services."""
        return [family for service in SERVICES for family in text_string_to_metric_families(self.text(service))]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that have at least these labels; 0 when there are none."""
        return sum(sample[2] for sample in self._samples() if sample[0] == name and labels.items() <= sample[1].items())

    def label_values(self, prefix: str = "stack_") -> Iterable[str]:
        """Return every value of every label except the buckets of histograms."""
        return {
            value
            for name, labels, _ in self._samples()
            if name.startswith(prefix)
            for label, value in labels.items()
            if label != "le"
        }

    def _samples(self) -> Iterator[tuple[str, dict[str, str], float]]:
        for family in self.families():
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value


@contextmanager
def watched_stack(*, stores_responses: bool = False, **environment: str) -> Iterator[tuple[Stack, Metrics]]:
    """Run a stack whose services serve their metrics."""
    ports = {service: free_port() for service in SERVICES}
    addresses = {f"{service.upper()}_METRICS_LISTEN": f"127.0.0.1:{port}" for service, port in ports.items()}
    with stack_folder() as folder:
        # A forked process has imported all services, and would export the metrics of all of them.
        stack = Stack(
            folder,
            gateways=1,
            environment={**addresses, **environment},
            is_forked=False,
            stores_responses=stores_responses,
        )
        with started(stack):
            yield stack, Metrics(ports)
