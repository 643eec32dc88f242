"""Loads and measures models through a running hub's own API, so that what is measured is what clients get."""

import time
from typing import Any

import httpx

from aihub.core.errors import ConflictError, HubError, ModelUnavailableError, NotFoundError
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue, CatalogueEntry
from aihub.models.store.validation import Speed

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


def read_message(answer: httpx.Response) -> str:
    """Return the message of the hub's error object, or the start of whatever came instead."""
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200] or answer.reason_phrase


def _at(document: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(document, dict) or name not in document:
            raise HubError(f"The hub's answer has no {'.'.join(names)}; is something else listening there?")
        document = document[name]
    return document
