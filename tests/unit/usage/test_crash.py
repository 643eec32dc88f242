import asyncio
import sys
import time

from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from tests.unit.usage.usage_parts import stored

LOST_S = 1.0
"""Most that a crash may lose."""


async def test_kill_loses_at_most_the_rows_of_the_last_second(
    embedded_stores: StoreUrls, database: Database, tenant: str
) -> None:
    words = ["-m", "tests.unit.usage.recording_process", embedded_stores.database_url, tenant]
    child = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
    assert child.stdout is not None
    made: dict[int, float] = {}

    async def read() -> None:
        assert child.stdout is not None
        async for line in child.stdout:
            number, at_s = line.split()
            made[int(number)] = float(at_s)

    reading = asyncio.create_task(read())
    try:
        while len(made) < 400:
            await asyncio.sleep(0.05)
            assert child.returncode is None
    finally:
        killed_s = time.time()
        child.kill()
        await child.wait()
    await reading
    found = {row.prompt_tokens for row in await stored(database, tenant)}
    owed = {number for number, at_s in made.items() if at_s < killed_s - LOST_S}
    assert len(owed) > 50
    assert owed - found == set()
    assert found <= made.keys()
