"""A process that records requests until it is killed: `python -m tests.unit.usage.recording_process DSN TENANT`.

Writes the number and the time (Unix seconds) of each.
"""

import asyncio
import sys
import time

from aihub.core.postgres import Database
from aihub.usage.recorder import UsageRecorder
from aihub.usage.tables.usage_records import UsageTable
from tests.unit.usage.usage_parts import record


async def main(dsn: str, tenant: str) -> None:
    database = Database(dsn)
    await database.open()
    recorder = UsageRecorder(UsageTable(database), days=90)
    number = 0
    while True:
        recorder.record(record(tenant, prompt_tokens=number))
        sys.stdout.write(f"{number} {time.time()}\n")
        sys.stdout.flush()
        number += 1
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
