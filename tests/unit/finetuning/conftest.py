"""What the tests of jobs share."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from aihub.core.embedded.stores import StoreUrls
from aihub.core.postgres import Database
from tests.unit.finetuning.job_parts import JobRows
from tests.unit.finetuning.jobs_hub import JobsHub, jobs_hub


@pytest.fixture
async def hub(app: FastAPI, database: Database, tenant: str, tmp_path: Path) -> AsyncIterator[JobsHub]:
    async with jobs_hub(app, database, tenant, tmp_path) as made:
        yield made


@pytest.fixture
def rows(embedded_stores: StoreUrls, tenant: str) -> Iterator[JobRows]:
    """Jobs of a tenant of its own; gone afterwards."""
    jobs = JobRows(embedded_stores.database_url, tenant)
    yield jobs
    jobs.remove()
