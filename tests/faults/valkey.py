"""The stack's Valkey: behind an address that can lead to its replica, and with a clock that can step."""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from services.quota.redis.scripts import entries_of
from tests.e2e.stack import Key, Stack
from tests.faults.clock import Clock
from tests.ports import free_port
from tests.valkey_backend import TCPValkey

_FREEZE_MS = 5_000
_ANSWER_SECONDS_MAX = 5
_LINKED_SECONDS_MAX = 10.0
_POLL_SECONDS = 0.005
_LOOPBACK = "127.0.0.1"

KeyDay = tuple[str, int]
"""Key id and days since 1970-01-01."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Redis' records of a key's day."""

    charged: int
    held: int
    tokens: int = 0
    """Tokens that are charged and held."""


@dataclass(frozen=True, slots=True)
class _Server:
    """A server that replicates or is replicated."""

    socket: Path
    port: int

    def client(self) -> "Redis":
        return Redis(unix_socket_path=str(self.socket), socket_timeout=_ANSWER_SECONDS_MAX)

    def info(self, section: str) -> dict[str, Any]:
        with self.client() as client:
            found: dict[str, Any] = client.info(section)
            return found

    @property
    def is_primary(self) -> bool:
        return bool(self.info("replication")["role"] == "master")

    @property
    def is_linked(self) -> bool:
        """Whether it is a replica that has its primary's data."""
        return self.info("replication").get("master_link_status") == "up"


class Valkey:
    """One address, a link, that leads to the Valkey of the stack or to its replica.

    The replica runs from `add_replica` to `restore`. When the link changes, open connections stay with their server.

    Attributes:
        clock: Its clock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._address = folder / "valkey.sock"
        self._first = _Server(folder / "valkey-1.sock", free_port())
        self._primary = self._first
        self._replica: _Server | None = None
        self._replica_process: TCPValkey | None = None
        self._route_to(self._first)
        self.clock = Clock(folder, self._address)

    @property
    def options(self) -> Sequence[str]:
        """Its command line options in addition to those of `make run`."""
        listening = ("--unixsocket", str(self._first.socket), "--bind", _LOOPBACK, "--port", str(self._first.port))
        # Redis answers only after a sync to the disk, so that a killed one must not have lost anything.
        return ("--appendfsync", "always", "--repl-diskless-sync-delay", "0", *listening)

    @property
    def files(self) -> Path:
        """Folder of its append-only file."""
        return self._folder / "data" / "valkey"

    # Its data.

    def entries(self, keys: Sequence[Key], days: Sequence[int], *command: str) -> dict[KeyDay, Entries]:
        """Return Redis' data and run one more command, in one atomic step."""
        return _entries_of(Redis(unix_socket_path=str(self._address)), keys, days, *command)

    def all_entries(self, keys: Sequence[Key]) -> dict[str, dict[str, str]]:
        """Return all of Redis' records of the keys' accounts: counters, and holds by their request ids."""
        with Redis(unix_socket_path=str(self._address)) as client:
            accounts = {key.account_id for key in keys}
            names = [name for one in accounts for name in client.scan_iter(match=f"*:{one}:*", count=10_000)]
            return {name.decode(): _texts(client.hgetall(name)) for name in names if client.type(name) == b"hash"}

    # Kills and the files left behind.

    def kill(self, stack: Stack, keys: Sequence[Key], days: Sequence[int]) -> dict[KeyDay, Entries]:
        """Kill it and return its last data: it does nothing between the read and its end."""
        last = self.entries(keys, days, "CLIENT", "PAUSE", str(_FREEZE_MS), "ALL")
        stack.kill("valkey")
        return last

    def forget(self) -> None:
        """Remove the killed server's file."""
        shutil.rmtree(self.files)
        self.files.mkdir()

    # Failover.

    async def add_replica(self) -> None:
        """Start a replica, and return when it has all data."""
        replica = _Server(self._folder / "valkey-2.sock", 0)
        self._replica_process = process = TCPValkey(self._folder / "replica", "--unixsocket", str(replica.socket))
        self._replica = _Server(replica.socket, process.port)
        await asyncio.to_thread(process.wait_until_up)
        await asyncio.to_thread(_follow, self._replica, self._first)

    async def fail_over(self, seconds: float) -> None:
        """Swap the roles gracefully, so that nothing is lost; the address follows after some seconds."""
        assert self._replica is not None
        await asyncio.to_thread(_fail_over, self._first, self._replica)
        await asyncio.sleep(seconds)
        self._route_to(self._replica)

    async def detach_replica(self, keys: Sequence[Key], days: Sequence[int]) -> dict[KeyDay, Entries]:
        """Detach the replica, and return its data; it accepts writes from now on."""
        assert self._replica is not None
        with self._replica.client() as client:
            client.replicaof("NO", "ONE")
        return _entries_of(self._replica.client(), keys, days)

    def route_to_replica(self) -> None:
        """Lead new connections to the replica."""
        assert self._replica is not None
        self._route_to(self._replica)

    def demote(self, keys: Sequence[Key], days: Sequence[int]) -> dict[KeyDay, Entries]:
        """Make the old primary a replica of the new one, and return its last data."""
        return _entries_of(self._first.client(), keys, days, "REPLICAOF", _LOOPBACK, str(self._primary.port))

    async def restore(self) -> None:
        """Make the first server the primary again, without a replica, with all data of the other."""
        if self._replica is None or self._replica_process is None:
            return
        if self._replica.is_primary:
            await asyncio.to_thread(_follow, self._first, self._replica)
            await asyncio.to_thread(_fail_over, self._replica, self._first)
        self._route_to(self._first)
        self.end_replica()

    def end_replica(self) -> None:
        """End the replica."""
        if self._replica_process is not None:
            self._replica_process.end()
            shutil.rmtree(self._folder / "replica")
        self._replica = self._replica_process = None

    def _route_to(self, server: _Server) -> None:
        self._primary = server
        link = self._folder / "valkey.link"
        link.symlink_to(server.socket)
        link.replace(self._address)


def _follow(replica: _Server, primary: _Server) -> None:
    """Make a server a replica, and return when it has all data, including on its disk if it has a file."""
    with replica.client() as client:
        client.replicaof(_LOOPBACK, str(primary.port))
    _until(lambda: replica.is_linked and not replica.info("persistence")["aof_rewrite_in_progress"])


def _fail_over(primary: _Server, replica: _Server) -> None:
    """Swap two roles; the primary accepts no write until the replica has all of them."""
    with primary.client() as client:
        client.execute_command("FAILOVER", "TO", _LOOPBACK, replica.port)
    _until(lambda: replica.is_primary)


def _until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + _LINKED_SECONDS_MAX
    while not condition():
        assert time.monotonic() < ends, "the Valkeys do not replicate"
        time.sleep(_POLL_SECONDS)


def _entries_of(client: "Redis", keys: Sequence[Key], days: Sequence[int], *command: str) -> dict[KeyDay, Entries]:
    names = [(key, day) for key in keys for day in days]
    with client, client.pipeline(transaction=True) as pipeline:
        for key, day in names:
            pipeline.hgetall(f"{entries_of(key.account_id)}:{day}")
        if command:
            pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
        answers: list[Any] = pipeline.execute()
    return {
        (key.id, day): entries
        for (key, day), answer in zip(names, answers, strict=False)
        if (entries := entries_in(answer, key.id))
    }


def entries_in(fields: dict[bytes, bytes], key_id: str) -> Entries | None:
    """Return Redis' records of a key among those of its account's day; None if there are none."""
    counter = f"{key_id}:requests".encode()
    if counter not in fields:
        return None
    held = sum(b":" not in name and b" %b " % counter in value for name, value in fields.items())
    tokens = sum(int(fields.get(f"{key_id}:tokens{suffix}".encode(), 0)) for suffix in ("", ":held"))
    return Entries(charged=int(fields[counter]), held=held, tokens=tokens)


def _texts(entries: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in entries.items()}
