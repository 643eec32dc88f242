"""The embedded PostgreSQL and Redis in one detached actor: they start with the first application, stop with the cluster."""

import logging
import threading
import time
from pathlib import Path

import ray
from pydantic import SecretStr

from aihub.core.errors import HubError
from aihub.core.settings import Settings

logger = logging.getLogger(__name__)

STORES_ACTOR = "aihub-embedded-stores"
STORES_NAMESPACE = "aihub"
CHECK_PERIOD_S = 2.0


class EmbeddedStoresActor:
    """Keeps the embedded servers running for as long as the Ray cluster lives.

    Their supervisor restarts a server that dies; this actor restarts the supervisor. Addresses and data stay the same.
    """

    def __init__(self, home: str) -> None:
        from aihub.core.embedded.stores import EmbeddedStores

        self._stores = EmbeddedStores(Path(home))
        self._urls = self._stores.start()
        threading.Thread(target=self._keep_running, daemon=True).start()

    def urls(self) -> tuple[str, str]:
        """Return (DATABASE_URL, REDIS_URL) of the running servers."""
        return self._urls.database_url, self._urls.redis_url

    def _keep_running(self) -> None:
        while True:
            time.sleep(CHECK_PERIOD_S)
            if self._stores.is_running():
                continue
            logger.warning("The supervisor of the embedded stores has died; starting it again.")
            try:
                self._stores.start()
            except HubError as error:
                logger.error("The embedded stores did not start: %s", error.message)


def connect_stores(settings: Settings) -> Settings:
    """Return settings whose store URLs are set, starting the embedded servers for those that are not.

    Raises:
        ConfigurationError: An embedded server could not start; the message says why.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        return settings
    actor = (
        ray.remote(EmbeddedStoresActor)
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
        .remote(str(settings.home_path))
    )
    database_url, redis_url = ray.get(actor.urls.remote(), timeout=120)
    return settings.model_copy(
        update={
            "database_url": settings.database_url or SecretStr(database_url),
            "redis_url": settings.redis_url or SecretStr(redis_url),
        }
    )
