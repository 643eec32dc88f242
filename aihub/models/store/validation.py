"""Proof that a model is whole and works: hashes of its files, one load, one measured run; kept as history.

A prober loads and measures through a running hub's own API, so that what is measured is what clients get.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import httpx

from aihub.core.errors import ConfigurationError, ConflictError, HubError, ModelUnavailableError, NotFoundError
from aihub.core.files import append_line, damaged_files, read_lines
from aihub.core.hub_requests import KEY_REFUSALS, error_of, read_message
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue, CatalogueEntry

HISTORY_NAME = "validations.jsonl"

SpeedUnit = Literal["tokens/s", "embeddings/s", "x real time"]
Outcome = Literal["good", "bad", "unknown"]


@dataclass(frozen=True, slots=True)
class Speed:
    """A measured speed."""

    unit: SpeedUnit
    value: float


class Prober(Protocol):
    """Loads models and measures them, on whatever runs them here."""

    async def load(self, key: ModelKey) -> None:
        """Load the model and get one answer from it.

        Raises:
            HubError: It does not load or does not answer.
        """
        ...

    async def measure(self, key: ModelKey) -> Speed:
        """Measure the loaded model.

        Raises:
            HubError: It stopped answering.
        """
        ...


@dataclass(frozen=True, slots=True)
class Validation:
    """Result of one validation.

    Attributes:
        key: The model.
        at: Seconds since 1970.
        integrity: `unknown` where no hashes are stored on this machine (Ollama checks its own files).
        damaged: Files that are gone or changed.
        load: `unknown` where nothing here can load it now.
        load_s: Time of the load.
        speed: The measured speed.
        detail: What went wrong or was left out, for people.
    """

    key: ModelKey
    at: float
    integrity: Outcome
    damaged: tuple[str, ...] = ()
    load: Outcome = "unknown"
    load_s: float | None = None
    speed: Speed | None = None
    detail: str = ""

    @property
    def is_good(self) -> bool:
        """Nothing that was checked is wrong."""
        return self.integrity != "bad" and self.load != "bad"

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "key": str(self.key),
            "at": self.at,
            "is_good": self.is_good,
            "integrity": self.integrity,
            "damaged": list(self.damaged),
            "load": self.load,
            "load_s": self.load_s,
            "speed": None if self.speed is None else {"unit": self.speed.unit, "value": self.speed.value},
            "detail": self.detail,
        }


class Validator:
    """Validates models one at a time and remembers the results.

    Args:
        history_path: JSON lines file of all results.
        find_folders: Gives the folders with a manifest that hold a model or what was made of it; none where it has none here.
        prober: Loads and measures; None where nothing can, so that only files are checked.
    """

    def __init__(
        self, history_path: Path, find_folders: Callable[[ModelKey], Sequence[Path]], prober: Prober | None = None
    ) -> None:
        self._history_path = history_path
        self._find_folders = find_folders
        self._prober = prober
        self._turn = asyncio.Lock()

    async def validate(self, key: ModelKey, *, with_load: bool = True) -> Validation:
        """Check files, then load, then speed; a model with damaged files is not loaded.

        Args:
            key: The model.
            with_load: Also load and measure it, where a prober is there.
        """
        async with self._turn:
            at = time.time()
            integrity, damaged, detail = await asyncio.to_thread(self._check_files, key)
            if integrity == "bad" or not with_load or self._prober is None:
                result = Validation(key, at, integrity, damaged, detail=detail)
            else:
                result = await self._probe(self._prober, Validation(key, at, integrity, damaged, detail=detail))
            await asyncio.to_thread(append_line, self._history_path, result.to_json())
        return result

    def history(self, key: ModelKey | None = None) -> list[dict[str, Any]]:
        """Return earlier results, oldest first; of one model where `key` is given."""
        return [line for line in read_lines(self._history_path) if key is None or line.get("key") == str(key)]

    def latest(self) -> dict[str, dict[str, Any]]:
        """Return the newest result of each key."""
        return {str(line.get("key")): line for line in self.history()}

    def _check_files(self, key: ModelKey) -> tuple[Outcome, tuple[str, ...], str]:
        folders = self._find_folders(key)
        if not folders:
            return "unknown", (), "no stored hashes on this machine"
        try:
            damaged = tuple(f"{folder.name}/{name}" for folder in folders for name in damaged_files(folder))
        except ConfigurationError as error:
            return "unknown", (), error.message
        if not damaged:
            return "good", (), ""
        return "bad", damaged, f"{len(damaged)} damaged files. Run: aihub models download --models {key}"

    @staticmethod
    async def _probe(prober: Prober, checked: Validation) -> Validation:
        started_s = time.monotonic()
        load_s: float | None = None
        try:
            await prober.load(checked.key)
            load_s = time.monotonic() - started_s
            speed = await prober.measure(checked.key)
        except HubError as error:
            return replace(checked, load="bad", load_s=load_s, detail=error.message)
        return replace(checked, load="good", load_s=load_s, speed=speed)


PROBE_TIMEOUT_S = 600.0
ANSWER_TOKENS = 64
PROMPT = "Hãy kể một câu chuyện dài về một con sông. Tell a long story about a river."
TEXTS = [f"Đoạn văn số {number}: giao hàng trong ba ngày. Text {number}: delivery takes three days." for number in range(64)]


class HubProber:
    """A `Prober` over HTTP.

    Args:
        client: Bound to the hub's address, with its key.
        catalogue: Says what a model is for and how clients call it.
    """

    def __init__(self, client: httpx.AsyncClient, catalogue: Catalogue) -> None:
        self._client = client
        self._catalogue = catalogue

    async def load(self, key: ModelKey) -> None:
        """Load a local chat model, and get one short answer of any model."""
        entry = self._entry(key)
        if entry.types[0] != "embeddings" and key.provider in {"package", "hf", "local"}:
            await self._post("/api/v1/models/load", {"model_id": entry.model_id, "force_reload": False})
        if entry.types[0] == "embeddings":
            await self._embed(entry, TEXTS[:1])
        else:
            await self._chat(entry, max_tokens=1)

    async def measure(self, key: ModelKey) -> Speed:
        """Return tokens a second of one long answer, or embeddings a second of one batch of short texts."""
        entry = self._entry(key)
        started_s = time.perf_counter()
        if entry.types[0] == "embeddings":
            count = float(await self._embed(entry, TEXTS))
            return Speed("embeddings/s", count / (time.perf_counter() - started_s))
        tokens = await self._chat(entry, max_tokens=ANSWER_TOKENS)
        return Speed("tokens/s", tokens / (time.perf_counter() - started_s))

    async def _chat(self, entry: CatalogueEntry, *, max_tokens: int) -> int:
        question = [{"role": "user", "content": PROMPT}]
        body = {"model": entry.model_id, "messages": question, "max_tokens": max_tokens, "temperature": 0}
        answer = await self._post("/v1/chat/completions", body)
        return int(_at(answer, "usage", "completion_tokens"))

    async def _embed(self, entry: CatalogueEntry, texts: list[str]) -> int:
        answer = await self._post("/v1/embeddings", {"model": entry.model_id, "input": texts})
        return len(_at(answer, "data"))

    async def _post(self, path: str, body: dict[str, Any]) -> Any:
        try:
            answer = await self._client.post(path, json=body, timeout=PROBE_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise ModelUnavailableError(f"The hub does not answer {path} ({type(error).__name__}).") from error
        if answer.is_success:
            return answer.json()
        if answer.status_code in {error.status for error in KEY_REFUSALS}:
            raise error_of(answer)
        raise ModelUnavailableError(f"{path} answered {answer.status_code}: {read_message(answer)}")

    def _entry(self, key: ModelKey) -> CatalogueEntry:
        entry = self._catalogue.get(key)
        if entry is None:
            raise NotFoundError(
                f"{key} is not in the catalogue, so there is no telling what to measure. Add it to configs/models."
            )
        if entry.types[0] == "speech":
            raise ConflictError(f"{key} is a speech model; transcribe a recording to measure it.")
        return entry


def _at(document: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(document, dict) or name not in document:
            raise HubError(f"The hub's answer has no {'.'.join(names)}; is something else listening there?")
        document = document[name]
    return document
