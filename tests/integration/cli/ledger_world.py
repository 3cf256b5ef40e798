"""`stackctl` against a real ledger, served over gRPC on a socket."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpc import aio

from services.common.db import database
from services.common.rpc.interceptors import ServiceInterceptor
from services.inference.ledger.export_rpc import UsageExportService
from services.inference.ledger.store import SQLLedgerStore
from services.inference.server import MIGRATIONS, VERSION_TABLE
from stack.inference.v1 import export_pb2_grpc
from tests.forked import run_module
from tests.integration.auth_process import environment


@dataclass(frozen=True, slots=True)
class LedgerWorld:
    """A ledger, and the command that reads it."""

    store: SQLLedgerStore
    target: str
    folder: Path

    async def stackctl(self, *arguments: str | Path, **settings: str) -> tuple[int, str, str]:
        """Run a command and return its exit code, standard output and standard error."""
        given = environment(self.folder, {"INFERENCE_TARGET": self.target, **settings})
        done = await asyncio.to_thread(run_module, "services.cli", *map(str, arguments), environment=given)
        return done.returncode, done.stdout, done.stderr


@asynccontextmanager
async def ledger_world(folder: Path, *, wrapped: Any = UsageExportService) -> AsyncIterator[LedgerWorld]:
    """Yield an empty ledger; `wrapped` makes the servicer of its store."""
    url = f"sqlite:///{folder}/ledger.db"
    with tempfile.TemporaryDirectory(prefix="cli-", dir="/tmp") as sockets:
        target = f"unix:{sockets}/inference.sock"
        async with database.open_database(url, migrations=MIGRATIONS, version_table=VERSION_TABLE) as engine:
            store = SQLLedgerStore(engine)
            server = aio.server(interceptors=[ServiceInterceptor()])
            export_pb2_grpc.add_UsageExportServiceServicer_to_server(wrapped(store), server)
            server.add_insecure_port(target)
            await server.start()
            yield LedgerWorld(store, target, folder)
            await server.stop(0)
