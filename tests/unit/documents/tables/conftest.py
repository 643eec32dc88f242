"""What the storage tests share."""

import pytest

from aihub.core.postgres import Database
from tests.storage_parts import Documents


@pytest.fixture
def documents(database: Database, tenant: str) -> Documents:
    return Documents(database, tenant)
