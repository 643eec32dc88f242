"""What the fetchers of all providers share: what they are asked, how they report, what they return."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from aihub.registry.catalogue import CatalogueEntry
from aihub.registry.configuration import HubConfiguration
from aihub.registry.keys import ModelKey

Step = Literal["waiting", "looking up", "downloading", "verifying", "unpacking", "installing", "done"]

Report = Callable[[Step, int, int | None], None]
"""Called on the event loop with the step, the bytes of it that are done, and all its bytes (None while nobody knows)."""


@dataclass(frozen=True, slots=True)
class Order:
    """One model to get.

    Attributes:
        key: The model.
        entry: What the catalogue knows of it, if it does.
        staging: Private folder of this key; what an earlier try left is still there.
        configuration: The settings that hold for this job.
        installed: Digest of the version in use now; None when nothing is installed.
    """

    key: ModelKey
    entry: CatalogueEntry | None
    staging: Path
    configuration: HubConfiguration
    installed: str | None

    @property
    def content(self) -> Path:
        """Where the files to install are put together."""
        return self.staging / "content"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The outcome.

    Attributes:
        digest: What identifies the content.
        source: Where it came from, for people.
        folder: The finished files, ready to be installed; None when the provider keeps them itself or nothing changed.
    """

    digest: str
    source: str
    folder: Path | None


class ModelFetcher(Protocol):
    """Gets the models of one provider."""

    async def fetch(self, order: Order, report: Report) -> Fetched:
        """Get the model; cancelling stops at once and keeps what can be continued.

        Raises:
            HubError: It cannot be had; the message says why and what to do.
        """
        ...
