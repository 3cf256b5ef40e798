"""Who may make which RPC, from the contracts and the callers that the services declare; as a table for the docs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import MethodDescriptor

from services.auth.server import CALLERS as AUTH_CALLERS
from services.inference.server import CALLERS as INFERENCE_CALLERS
from services.quota.server import CALLERS as QUOTA_CALLERS

ROLES = ("gateway", "quota", "operator-console", "stackctl")
"""Callers with a certificate of their own. Auth and inference call no service."""
SERVERS = ("auth", "quota", "inference")
DECLARED = {**AUTH_CALLERS, **QUOTA_CALLERS, **INFERENCE_CALLERS}
"""Identities by the full name of a gRPC service."""
NOTHING, ADMIN_TOKEN, SESSION, OPERATOR = "", "admin token", "session", "operator's session"
REASONS = {ADMIN_TOKEN: "admin_token_missing", SESSION: "session_ended", OPERATOR: "session_ended"}
"""Reasons for which a call without the credential is refused."""
_BY_SERVICE = {
    "AccountService": ADMIN_TOKEN,
    "AuditService": ADMIN_TOKEN,
    "KeyService": ADMIN_TOKEN,
    "MailService": ADMIN_TOKEN,
    "PlanService": ADMIN_TOKEN,
    "AccountSessionService": ADMIN_TOKEN,
    "OwnerService": SESSION,
    "OwnerAlertService": SESSION,
    "OperatorService": OPERATOR,
}
_BY_RPC = {
    "GetSession": SESSION,  # In the request.
    **dict.fromkeys(("ListOwnIdentities", "AuthorizeLink", "LinkOwnIdentity", "UnlinkOwnIdentity"), SESSION),
    **dict.fromkeys(("GetOwnTOTP", "EnrolOwnTOTP", "EnableOwnTOTP", "DisableOwnTOTP", "ReplaceRecoveryCodes"), SESSION),
}
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Permission:
    """An RPC, the roles that may make it, and the credential that each call needs besides the certificate."""

    server: str
    service: str
    method: MethodDescriptor
    roles: frozenset[str]
    needs: str

    @property
    def name(self) -> str:
        """The RPC in short, `Service.Method`."""
        return f"{self.service.rpartition('.')[2]}.{self.method.name}"


def permissions() -> Sequence[Permission]:
    """Return all RPCs of all contracts, in the order of their names."""
    return sorted(_permissions(), key=lambda one: (SERVERS.index(one.server), one.name))


def table() -> str:
    """Return the permissions as a table in Markdown."""
    head = f"| RPC | {' | '.join(ROLES)} | also needs |"
    shown = {one.name: one for one in permissions()}.values()  # What all services have is shown once.
    rows = [
        f"| `{one.name}` | {' | '.join('yes' if role in one.roles else '' for role in ROLES)} | {one.needs} |"
        for one in shown
    ]
    lines = [head, f"|{'---|' * (len(ROLES) + 2)}", *rows]
    return "\n".join(line.replace("|  |", "| |").replace("|  |", "| |") for line in lines)


def _permissions() -> Iterator[Permission]:
    for path in sorted((_ROOT / "protos").rglob("*.proto")):
        name = path.relative_to(_ROOT / "protos").with_suffix("").as_posix().replace("/", ".")
        contract: Any = import_module(f"{name}_pb2")
        for service in contract.DESCRIPTOR.services_by_name.values():
            roles = frozenset(one.partition(".")[0] for one in DECLARED.get(service.full_name, ()))
            for method in service.methods:
                needs = _BY_RPC.get(method.name, _BY_SERVICE.get(service.name, NOTHING))
                for server in SERVERS if name.split(".")[1] == "common" else [name.split(".")[1]]:
                    yield Permission(server, service.full_name, method, roles, needs)


if __name__ == "__main__":
    print(table())
