"""Ports of stacks that start at the same time, before their programs listen."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.common.errors import StartError
from services.common.runtime.address import parse_address
from services.local.configuration import Configuration
from services.local.port_claims import PortClaims
from services.local.ports import with_free_ports
from services.local.settings import LocalSettings
from tests.ports import free_port

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no sockets without a file")


@pytest.fixture
def another() -> Iterator[PortClaims]:
    """Yield the claims of another stack."""
    with PortClaims() as claims:
        yield claims


def _configuration(folder: Path, gateway_port: int) -> Configuration:
    return LocalSettings(data_dir=folder, gateway_port=gateway_port, workers=2).configuration()


def _ports(configuration: Configuration) -> set[int]:
    workers = range(configuration.workers)
    metrics = parse_address(configuration.gateway_metrics_listen).port
    listens = (configuration.auth_listen, configuration.quota_listen, configuration.inference_listen)
    return {parse_address(listen).port for listen in listens} | {metrics + number for number in workers}


def test_a_port_that_a_stack_is_starting_on_is_refused_to_another_one(tmp_path: Path, another: PortClaims) -> None:
    port = free_port()
    with_free_ports(_configuration(tmp_path, port), another)

    with PortClaims() as claims, pytest.raises(StartError) as raised:
        with_free_ports(_configuration(tmp_path, port), claims)
    assert f"GATEWAY_PORT is not usable: another stack that is starting uses the port of 127.0.0.1:{port}" in str(
        raised.value
    )

    another.release()
    with PortClaims() as claims:
        assert with_free_ports(_configuration(tmp_path, port), claims).gateway_port == port


def test_stacks_that_start_at_the_same_time_choose_different_internal_ports(
    tmp_path: Path, another: PortClaims
) -> None:
    theirs = with_free_ports(_configuration(tmp_path, free_port()), another)
    with PortClaims() as claims:
        ours = with_free_ports(_configuration(tmp_path, free_port()), claims)

    assert len(_ports(ours)) == len(_ports(theirs)) == 5
    assert not _ports(ours) & _ports(theirs)
