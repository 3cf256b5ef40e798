"""Injects a fault, and repairs it after its duration."""

import asyncio

from tests.faults import ledger
from tests.faults.evidence import Evidence, days
from tests.faults.schedule import Fault, FaultKind
from tests.faults.valkey import Entries, KeyDay
from tests.faults.world import World

_NOTHING = Entries(0, 0)


async def apply(world: World, evidence: Evidence, fault: Fault) -> None:
    """Break something, and repair it after its duration; record what Redis lost."""
    match fault.harm:
        case FaultKind.FLUSH:
            _note_loss(evidence, world.valkey.entries(evidence.keys, days(), "FLUSHALL"))
        case FaultKind.FORGET:
            _note_loss(evidence, world.valkey.kill(world.stack, evidence.keys, days()))
            world.valkey.forget()
            await asyncio.sleep(fault.seconds)
            world.stack.start("valkey")
        case FaultKind.ROLL_BACK:
            await _roll_back(world, evidence, fault)
        case FaultKind.FAIL_OVER:
            await world.valkey.fail_over(fault.seconds)
        case FaultKind.FAIL_OVER_BEHIND:
            await _fail_over_behind(world, evidence, fault)
        case FaultKind.STEP_CLOCK:
            world.valkey.clock.set(fault.step)
            await asyncio.sleep(fault.seconds)
            world.valkey.clock.set(0)
        case FaultKind.PAUSE if fault.target == "postgres":
            world.postgres.freeze()
            await asyncio.sleep(fault.seconds)
            world.postgres.resume()
        case FaultKind.PAUSE:
            world.pause(fault.target)
            await asyncio.sleep(fault.seconds)
            world.resume(fault.target)
        case FaultKind.MIGRATE:
            world.stack.kill(fault.target)
            await ledger.migrate_again(world)
            world.stack.start(fault.target)
        case FaultKind.KILL:
            await _kill(world, evidence, fault)


async def _kill(world: World, evidence: Evidence, fault: Fault) -> None:
    if fault.target == "postgres":
        world.postgres.stop_at_once()
        await asyncio.sleep(fault.seconds)
        world.postgres.start()
        return
    if fault.target == "groq-standin":
        await note_journal(world, evidence)  # It is killed with it.
    world.stack.kill(fault.target)
    await asyncio.sleep(fault.seconds)
    world.stack.start(fault.target)


async def _roll_back(world: World, evidence: Evidence, fault: Fault) -> None:
    # First read, then copied: the copy contains all that was read.
    kept = world.valkey.entries(evidence.keys, days())
    copies = {path: path.read_bytes() for path in world.valkey.files.rglob("*") if path.is_file()}
    await asyncio.sleep(fault.seconds)
    _note_loss(evidence, world.valkey.kill(world.stack, evidence.keys, days()), kept)
    world.valkey.forget()
    for path, content in copies.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    world.stack.start("valkey")


async def _fail_over_behind(world: World, evidence: Evidence, fault: Fault) -> None:
    kept = await world.valkey.detach_replica(evidence.keys, days())
    await asyncio.sleep(fault.seconds / 2)
    world.valkey.route_to_replica()
    # Open connections lead to the old primary, which accepts their writes.
    await asyncio.sleep(fault.seconds / 2)
    _note_loss(evidence, world.valkey.demote(evidence.keys, days()), kept)


def _note_loss(evidence: Evidence, last: dict[KeyDay, Entries], kept: dict[KeyDay, Entries] | None = None) -> None:
    """Record the most that a key can have lost.

    An emptied Redis starts again from the ledger's charged rows, so it lost only the holds; one that was rolled back,
    or has taken over without the last writes, has lost the charges since then too.
    """
    evidence.redis_lost = True
    for name, entries in last.items():
        charges = entries.charged - kept.get(name, _NOTHING).charged if kept is not None else 0
        evidence.lost[name] = evidence.lost.get(name, 0) + entries.held + charges


async def note_journal(world: World, evidence: Evidence) -> None:
    """Record what the stand-in has served so far."""
    for entry in await world.stack.journal():
        if str(entry["last_user_message"] or "").startswith(evidence.tag):
            evidence.journal[entry["x_groq_id"]] = entry
