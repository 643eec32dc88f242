"""What the tests of the jobs API share."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from aihub.core.postgres import Database
from tests.unit.finetuning.jobs_hub import JobsHub, jobs_hub


@pytest.fixture
async def hub(app: FastAPI, database: Database, tenant: str, tmp_path: Path) -> AsyncIterator[JobsHub]:
    async with jobs_hub(app, database, tenant, tmp_path) as made:
        yield made
