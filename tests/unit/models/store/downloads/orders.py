"""Small makers of what fetchers are asked for."""

from pathlib import Path
from typing import Any

from aihub.models.configuration import HubConfiguration
from aihub.models.keys import parse_key
from aihub.models.store.catalogue import CatalogueEntry
from aihub.models.store.downloads.orders import Order, Step


class Reports:
    """Remembers what a fetcher reported."""

    def __init__(self) -> None:
        self.seen: list[tuple[Step, int, int | None]] = []

    def __call__(self, step: Step, done: int, total: int | None) -> None:
        self.seen.append((step, done, total))

    @property
    def steps(self) -> list[Step]:
        return list(dict.fromkeys(step for step, _, _ in self.seen))


def speech_entry(url: str = "https://models.example/vi.zip", **changes: Any) -> CatalogueEntry:
    values = {
        "key": parse_key("vosk:vi"),
        "model_id": "vosk-vi",
        "title": "Tiếng Việt",
        "types": ("speech",),
        "size_bytes": None,
        "source_url": "https://models.example/vi.zip",
        "licence": "Apache-2.0",
    }
    entry = CatalogueEntry.model_validate(values | changes)
    # The catalogue takes https only; tests have a server on the loopback.
    return entry.model_copy(update={"source_url": url})


def order(
    staging: Path, key: str, *, entry: CatalogueEntry | None = None, installed: str | None = None, **settings: Any
) -> Order:
    staging.mkdir(parents=True, exist_ok=True)
    return Order(parse_key(key), entry, staging, HubConfiguration.model_validate(settings), installed)
