from collections.abc import Iterator

import pytest

from aihub.core.embedded.stores import StoreUrls
from tests.unit.finetuning.job_parts import JobRows


@pytest.fixture
def rows(embedded_stores: StoreUrls, tenant: str) -> Iterator[JobRows]:
    """Jobs of a tenant of its own; gone afterwards."""
    jobs = JobRows(embedded_stores.database_url, tenant)
    yield jobs
    jobs.remove()
