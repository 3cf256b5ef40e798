"""The `stackctl` command: global options and subcommands."""

from pathlib import Path

import click

from services.cli.client import Backends
from services.cli.commands.accounts import accounts
from services.cli.commands.audit import audit
from services.cli.commands.completion import completion
from services.cli.commands.keys import keys
from services.cli.commands.ledger import ledger
from services.cli.commands.mail import mail
from services.cli.commands.operators import operators
from services.cli.commands.plans import plans
from services.cli.commands.status import status
from services.cli.commands.usage import usage
from services.cli.commands.verify import verify
from services.cli.usage_errors import Commands, Target
from services.common.runtime import address_file

_TARGETS = {"auth": "127.0.0.1:50051", "quota": "127.0.0.1:50052", "inference": "127.0.0.1:50053"}


def _target(service: str) -> click.Option:
    return click.Option(
        [f"--{service}-target"],
        envvar=f"{service.upper()}_TARGET",
        show_default=f"address of the `make run` stack in DATA_DIR, otherwise {_TARGETS[service]}",
        show_envvar=True,
        type=Target(),
        help=f"Address of the {service} service.",
    )


@click.group(
    cls=Commands,
    params=[
        *map(_target, _TARGETS),
        click.Option(
            ["--data-dir"],
            envvar="DATA_DIR",
            type=click.Path(path_type=Path),
            default=Path("var"),
            show_default=True,
            show_envvar=True,
            help="Data folder of a single machine. Its file `admin-token` is used if STACK_ADMIN_TOKEN is not set.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="stack-api", prog_name="stackctl")
@click.pass_context
def main(context: click.Context, /, *, data_dir: Path, **targets: str | None) -> None:
    """Manage accounts, plans and API keys, and show usage, the audit log and the state of the services.

    The admin token is read from STACK_ADMIN_TOKEN, or from the file `admin-token` in DATA_DIR. The audit log records
    the operator's name: STACK_OPERATOR, or the local user if it is not set. If the services use TLS, set
    TLS_CERTIFICATE_FILE, TLS_KEY_FILE and TLS_CA_FILE to the operator's certificate, its key, and the CA certificates.

    Commands that cannot be undone ask first on a terminal, and need --yes elsewhere. A terminal shows states in colour,
    unless NO_COLOR is set.

    Exit codes: 0 success, 1 rejected or failed, 2 invalid command line, 3 a service does not respond.
    """
    running = address_file.read(data_dir)
    auth, quota, inference = (
        targets[f"{service}_target"] or running.get(service) or default for service, default in _TARGETS.items()
    )
    context.obj = Backends(auth, quota, inference, data_dir)


for _command in (accounts, operators, plans, keys, usage, ledger, audit, mail, status, verify, completion):
    main.add_command(_command)
