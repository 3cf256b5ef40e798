"""`stackctl status`: show the state, the version, the dependencies and the queues of each service."""

from typing import Any

import click

from services.cli import client, output
from services.cli.client import Backends, Service
from services.cli.failures import Failure, Unreachable
from stack.common.v1 import status_pb2
from stack.common.v1.status_pb2_grpc import StatusServiceStub

_COLUMNS = ("service", "state", "version", "dependencies", "queues")
_WORKING = ("ok", "none", "unknown")
"""States of dependencies that are no fault: `none` is not configured, and `unknown` not checked yet."""


@click.command()
@output.as_json_option
@click.pass_context
def status(context: click.Context, *, as_json: bool) -> None:
    """Show the state, version, dependencies and queues of auth, quota and inference, of the replica that answers each.

    Exit code: 0 if all respond and all their dependencies work, 1 if a dependency does not, 3 if a service does not.
    """
    backends: Backends = context.obj
    found = [_status(service) for service in (backends.any_auth(), backends.quota(), backends.inference())]
    if as_json:
        output.show_json({"services": found})
    else:
        output.show_table(_COLUMNS, [_row(one) for one in found], colors={"state": output.state_color})
        for line in _problems(found):
            output.say(line)
    context.exit(max(_exit_code(one) for one in found))


def _status(service: Service) -> dict[str, Any]:
    try:
        answer = client.call(
            service,
            lambda channel: StatusServiceStub(channel).GetServiceStatus,
            status_pb2.GetServiceStatusRequest(),
        )
    except Unreachable as exc:
        return _fields(service.name, "unreachable", message=exc.message)
    except Failure as exc:  # Such as a service of an earlier version, which has no status.
        return _fields(service.name, "unknown", message=exc.message)
    is_working = all(one.state in _WORKING for one in answer.dependencies)
    return _fields(service.name, "ok" if is_working else "degraded", answer)


def _fields(
    name: str, state: str, answer: status_pb2.GetServiceStatusResponse | None = None, *, message: str = ""
) -> dict[str, Any]:
    answer = answer or status_pb2.GetServiceStatusResponse()
    return {
        "service": name,
        "state": state,
        "version": answer.version or None,
        "message": message or None,
        "dependencies": [
            {"name": one.name, "state": one.state, "message": one.message or None} for one in answer.dependencies
        ],
        "queues": {one.name: one.length for one in answer.queues},
    }


def _row(fields: dict[str, Any]) -> list[str]:
    dependencies = ", ".join(f"{one['name']} {one['state']}" for one in fields["dependencies"])
    queues = ", ".join(f"{name} {length}" for name, length in fields["queues"].items())
    return [
        fields["service"],
        fields["state"],
        fields["version"] or "unknown",
        dependencies or "none",
        queues or "none",
    ]


def _problems(found: list[dict[str, Any]]) -> list[str]:
    parts = [(one["service"], part) for one in found for part in (one, *one["dependencies"])]
    return [f"{service}: {part['message']}" for service, part in parts if part["message"]]


def _exit_code(fields: dict[str, Any]) -> int:
    return {"ok": 0, "unreachable": 3}.get(fields["state"], 1)
