"""Loads and measures models for the registry's validation, over Serve handles."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from ray import serve

from aihub.core.errors import ConflictError
from aihub.models.keys import ModelKey
from aihub.models.store.validation import ANSWER_TOKENS, PROMPT, TEXTS, Speed
from deployments.handles import translate_error
from deployments.llm_app import app_name

EMBEDDINGS_APP = "embeddings"


class EngineProber:
    """A `Prober` on the running hub.

    Args:
        ensure: Loads a model and returns once it can be asked.
        model_id_of: Finds a local chat model by its key; None when there is none.
        embedding_source: Where the served embedding model comes from, as the profile names it.
    """

    def __init__(
        self,
        ensure: Callable[[str], Awaitable[Any]],
        model_id_of: Callable[[str], str | None],
        *,
        embedding_source: str,
    ) -> None:
        self._ensure = ensure
        self._model_id_of = model_id_of
        # A hub id stands in the profile without the prefix of its key.
        self._embedding_keys = frozenset({embedding_source, f"hf:{embedding_source}"})

    async def load(self, key: ModelKey) -> None:
        """Load the model and get one short answer.

        Raises:
            ConflictError: It is neither a local chat model nor the embedding model that is served.
        """
        if str(key) in self._embedding_keys:
            await self._call(EMBEDDINGS_APP, "embed", TEXTS[:1])
            return
        model_id = self._chat_model(key)
        await self._ensure(model_id)
        await self._chat(model_id, max_tokens=1)

    async def measure(self, key: ModelKey) -> Speed:
        """Return tokens a second of one answer, or embeddings a second of one batch."""
        started_s = time.perf_counter()
        if str(key) in self._embedding_keys:
            await self._call(EMBEDDINGS_APP, "embed", TEXTS)
            return Speed("embeddings/s", len(TEXTS) / (time.perf_counter() - started_s))
        tokens = await self._chat(self._chat_model(key), max_tokens=ANSWER_TOKENS)
        return Speed("tokens/s", tokens / (time.perf_counter() - started_s))

    def _chat_model(self, key: ModelKey) -> str:
        model_id = self._model_id_of(str(key))
        if model_id is None:
            raise ConflictError(f"{key} is not served by this hub, so only its files can be checked.")
        return model_id

    async def _chat(self, model_id: str, *, max_tokens: int) -> int:
        body = {
            "model": model_id,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_completion_tokens": max_tokens,
            "temperature": 0.0,
            "stream": False,
        }
        answer = await self._call(app_name(model_id), "chat", body)
        return int(answer["usage"]["completion_tokens"])

    async def _call(self, app: str, method: str, *args: Any) -> Any:
        try:
            return await getattr(serve.get_app_handle(app), method).remote(*args)
        except Exception as error:  # the border of the cluster: every failure is translated
            raise translate_error(error, f"The application {app}") from error
