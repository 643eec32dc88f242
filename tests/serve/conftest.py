from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import openai
import pytest
import ray

from tests.cluster import RunningHub

CLOSES_THE_HUB = "test_keys.py"
"""Makes the first key, after which the session's hub asks everybody for one for good."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the module that closes the hub after all others."""
    items.sort(key=lambda item: item.path.name == CLOSES_THE_HUB)


@pytest.fixture
def client(hub: RunningHub) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{hub.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(hub: RunningHub) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{hub.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def ray_cluster(hub: RunningHub) -> Iterator[None]:
    """Join the hub's Ray cluster as a driver, with the token Ray made when the hub started."""
    command = next(process.cmdline() for process in hub.processes("gcs_server"))
    options = dict(part.lstrip("-").split("=", 1) for part in command if part.startswith("--") and "=" in part)
    ray.init(address=f"{options['node-ip-address']}:{_gcs_port(options)}", namespace="serve", log_to_driver=False)
    yield
    ray.shutdown()


def _gcs_port(options: dict[str, str]) -> str:
    if options.get("gcs_server_port", "0") != "0":
        return options["gcs_server_port"]
    return (Path(options["session-dir"]) / next(iter(Path(options["session-dir"]).glob("gcs_server_port_*"))).name).read_text(
        encoding="utf-8"
    )
