"""The last trainings of a store, as `aihub recsys status` prints them."""

import asyncio

from aihub.core.errors import HubError
from aihub.core.settings import Settings
from aihub.recsys.tables.runs import RunRecord

MOST = 5


def describe_trainings(settings: Settings, store_id: int) -> list[str]:
    """Return one line per training, newest first; none while no database runs, and one line that says why it does not answer."""
    from aihub.core.embedded.stores import running_urls

    if settings.database_url is not None:
        dsn = settings.database_url.get_secret_value()
    elif (running := running_urls(settings.home_path)) is not None:
        dsn = running.database_url
    else:
        return []
    try:
        return asyncio.run(_read(dsn, store_id))
    except HubError as error:
        return [f"not known: {error.message}"]


async def _read(dsn: str, store_id: int) -> list[str]:
    from aihub.core.postgres import Database
    from aihub.core.principal import DEFAULT_TENANT
    from aihub.recsys.tables.runs import TrainingRunTable

    database = Database(dsn, pool_size=1)
    await database.open()
    try:
        return [_describe(run) for run in await TrainingRunTable(database).recent(DEFAULT_TENANT, store_id, MOST)]
    finally:
        await database.close()


def _describe(run: RunRecord) -> str:
    told = run.message or (run.error or {}).get("message", "")
    if run.status == "running":
        told = f"{run.step}, {run.progress:.0%}" + (f", start {run.attempts}" if run.attempts > 1 else "")
    return f"{run.model_type:<15} {run.status:<11} {told}  ({run.id})"
