"""The embedded PostgreSQL and Redis live as long as the process of `aihub serve` that starts Ray.

Under a bare `serve run` nobody has started them: a detached actor then does so with the first application, and they stop with
the cluster.
"""

import logging
import os
import threading
from pathlib import Path

from pydantic import SecretStr

from aihub.core.embedded.stores import EmbeddedStores, StoreUrls, running_urls
from aihub.core.errors import HubError
from aihub.core.settings import Settings

logger = logging.getLogger(__name__)

STORES_ACTOR = "aihub-embedded-stores"
STORES_NAMESPACE = "aihub"
CHECK_PERIOD_S = 2.0
KEPT_VARIABLE = "AIHUB_STORES_ARE_KEPT"
"""Set by the process that keeps the servers; those of its cluster inherit it."""


class EmbeddedStoresKeeper:
    """Keeps the embedded servers running for as long as this process lives.

    Their supervisor restarts a server that dies; this keeper restarts the supervisor. Addresses and data stay the same.

    Raises:
        ConfigurationError: They could not start; the message says why.
    """

    def __init__(self, home: str) -> None:
        self._stores = EmbeddedStores(Path(home))
        self._urls = self._stores.start()
        self._is_stopped = threading.Event()
        threading.Thread(target=self._keep_running, daemon=True).start()

    def urls(self) -> tuple[str, str]:
        """Return (DATABASE_URL, REDIS_URL) of the running servers."""
        return self._urls.database_url, self._urls.redis_url

    def stop(self) -> None:
        """Stop both servers cleanly and wait for it."""
        self._is_stopped.set()
        self._stores.stop()

    def _keep_running(self) -> None:
        while not self._is_stopped.wait(CHECK_PERIOD_S):
            if self._stores.is_running():
                continue
            logger.warning("The supervisor of the embedded stores has died; starting it again.")
            try:
                self._stores.start()
            except HubError as error:
                logger.error("The embedded stores did not start: %s", error.message)


def connect_stores(settings: Settings) -> Settings:
    """Return settings whose store URLs are set; the embedded servers answer for those that are not, and are started if need be.

    Raises:
        ConfigurationError: An embedded server could not start; the message says why.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        return settings
    # Servers that another command runs on this folder for a moment would be gone soon.
    kept = running_urls(settings.home_path) if KEPT_VARIABLE in os.environ else None
    urls = kept or _start_by_actor(settings.home_path)
    return settings.model_copy(
        update={
            "database_url": settings.database_url or SecretStr(urls.database_url),
            "redis_url": settings.redis_url or SecretStr(urls.redis_url),
        }
    )


def keep_stores(settings: Settings) -> EmbeddedStoresKeeper | None:
    """Start the embedded servers in this process, for the cluster it starts next, unless both stores are configured.

    Raises:
        ConfigurationError: An embedded server could not start; the message says why.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        return None
    keeper = EmbeddedStoresKeeper(str(settings.home_path))
    os.environ[KEPT_VARIABLE] = "1"
    return keeper


def _start_by_actor(home: Path) -> StoreUrls:
    import ray

    actor = (
        ray.remote(EmbeddedStoresKeeper)
        .options(
            name=STORES_ACTOR,
            namespace=STORES_NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            max_restarts=-1,
            # The data folder lies on the head node's disk.
            resources={"node:__internal_head__": 0.001},
        )
        .remote(str(home))
    )
    database_url, redis_url = ray.get(actor.urls.remote(), timeout=120)
    return StoreUrls(database_url, redis_url)
