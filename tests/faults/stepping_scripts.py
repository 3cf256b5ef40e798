"""Runs a program whose quota sees Redis' clock step, where libfaketime is not installed.

`python -m tests.faults.stepping_scripts services.quota` is `python -m services.quota`, but the time in its scripts and
of the command TIME is ahead by the seconds in an entry of Redis.
"""

import hashlib
import runpy
import sys

from services.quota.redis import scripts
from services.quota.redis.connections import BatchRedis

ENTRY = "clock-ahead-seconds"
_TIME = "redis.call('TIME')"
_STEPPED = f"""(function()
  local time = {_TIME}
  return {{string.format('%d', tonumber(time[1]) + tonumber(redis.call('GET', '{ENTRY}') or 0)), time[2]}}
end)()"""


async def _time(client: BatchRedis) -> tuple[int, int]:
    seconds, microseconds = await client.eval(f"return {_STEPPED}", 0)
    return int(seconds), int(microseconds)


def _main() -> None:
    for script in (scripts.RESERVE, scripts.STATUS):
        text = script.text.replace(_TIME, _STEPPED)
        assert text != script.text, "the script reads the time in another way"
        object.__setattr__(script, "text", text)
        object.__setattr__(script, "sha", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
    BatchRedis.time = _time  # type: ignore[method-assign, assignment]
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
