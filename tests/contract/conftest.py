from collections.abc import Iterator

import pytest

from tests.isolation import isolation


@pytest.fixture(autouse=True)
def isolated() -> Iterator[list[str]]:
    """No Ray, no network, no blocked event loop."""
    with isolation() as violations:
        yield violations
