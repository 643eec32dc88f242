"""All configured providers, and the engines of their models."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from pydantic import SecretStr

from aihub.chat.providers.connection import ProviderConnection, ProviderMetrics
from aihub.chat.providers.failures import ProviderNotConfiguredError, explain_refusal, explain_retired
from aihub.chat.providers.ollama import OllamaEngine, explain_ollama_refusal
from aihub.chat.providers.openai_compatible import COMPATIBLE, GITHUB, OPENAI, OpenAICompatibleEngine
from aihub.chat.providers.origin import Origin
from aihub.chat.providers.resilience import RetryPolicy
from aihub.chat.providers.settings import PROVIDER_NAMES, KnownProviders, ProviderName, ProviderSettings
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import HubError, InvalidRequestError
from aihub.core.health import PartHealth
from aihub.core.limits import MAX_MEDIA_PARTS, MAX_VIDEO_FRAMES

logger = logging.getLogger(__name__)

TAGS_TIMEOUT_S = 1.0
TAGS_KEPT_S = 15.0
MAX_REMOTE_IMAGES = MAX_MEDIA_PARTS + MAX_VIDEO_FRAMES
"""Of one request to a provider's model; OpenAI takes more."""

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/-]{0,199}")
_DIALECTS = {"local": COMPATIBLE, "openai": OPENAI, "github": GITHUB}
_MISSING = {
    "local": "set LOCAL_LLM_API_URL",
    "openai": "set OPENAI_API_KEY",
    "github": "set GITHUB_TOKEN",
    "ollama": "set OLLAMA_URL",
}


class ProviderPool:
    """Connections to the configured providers; nothing is sent before a model is asked or Ollama's are listed.

    Args:
        policy: Retries, for all providers.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        settings: ProviderSettings,
        known: KnownProviders,
        metrics: ProviderMetrics,
        *,
        policy: RetryPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._known = known
        self._metrics = metrics
        self._policy = policy
        self._clock = clock
        self._created = int(time.time())
        self._retirements: set[asyncio.Task[None]] = set()
        self._settings = settings
        self._connections = self._connect(settings)
        self._tags: tuple[float, tuple[str, ...]] | None = None

    @property
    def settings(self) -> ProviderSettings:
        return self._settings

    def configure(self, settings: ProviderSettings) -> None:
        """Use other settings from the next request on; running requests end on their old connections, which then close.

        Call inside the running loop.

        Raises:
            ConfigurationError: A URL is wrong; the old settings stay.
        """
        if settings == self._settings:
            return
        connections = self._connect(settings)
        for connection in self._connections.values():
            retirement = asyncio.get_running_loop().create_task(connection.retire())
            self._retirements.add(retirement)
            retirement.add_done_callback(self._retirements.discard)
        self._settings, self._connections, self._tags = settings, connections, None

    async def close(self) -> None:
        """Close every connection."""
        await asyncio.gather(*self._retirements, *(connection.close() for connection in self._connections.values()))

    @property
    def configured(self) -> tuple[ProviderName, ...]:
        """Providers that can be asked."""
        return tuple(self._connections)

    def health(self) -> dict[str, PartHealth]:
        """State of each configured provider as its last requests showed it; nothing is sent."""
        return {provider: connection.health for provider, connection in self._connections.items()}

    def engine(self, provider: ProviderName, model: str) -> ChatEngine:
        """Return the engine of a provider's model, named `<provider>/<model>`.

        Raises:
            ProviderNotConfiguredError: The provider has no key or URL.
            InvalidRequestError: The name cannot be one.
        """
        connection = self._connections.get(provider)
        if connection is None:
            raise ProviderNotConfiguredError(
                f"The provider {provider!r} is not configured: ask the hub's operator to {_MISSING[provider]}.", param="model"
            )
        if not _MODEL_NAME.fullmatch(model) or ".." in model:
            raise InvalidRequestError(
                "A provider's model name is letters, digits and . _ : @ / - after the prefix.",
                param="model",
                code="invalid_model",
            )
        model_info = self._model_info(provider, model)
        if provider == "ollama":
            return OllamaEngine(connection, model, model_info)
        return OpenAICompatibleEngine(connection, model, model_info, _DIALECTS[provider])

    def default_model(self, provider: ProviderName, asked: str) -> str:
        """Return the provider's model to fall back to: the asked one where it is known there, else its default."""
        known = self._known.of(provider)
        bare = asked.removeprefix(f"{provider}/")
        if known.find(bare) is not None:
            return bare
        return (self._settings.ollama_model if provider == "ollama" else None) or known.default_model

    async def models(self) -> list[ChatModelInfo]:
        """Cards of the models that configured providers offer; an Ollama server that does not answer offers none.

        A model that nothing is known of counts as one that reads no images here, though it is given them when it is asked.
        """
        model_infos = []
        for provider in self._connections:
            names = await self._ollama_names() if provider == "ollama" else [m.name for m in self._known.of(provider).models]
            known = self._known.of(provider)
            for name in names:
                model_info = self._model_info(provider, name)
                model_infos.append(model_info if known.find(name) is not None else replace(model_info, max_images=0))
        return model_infos

    def _model_info(self, provider: ProviderName, model: str) -> ChatModelInfo:
        known = self._known.of(provider)
        found = known.find(model)
        context = found.context_tokens if found is not None else known.context_tokens
        # What is not known is left to the provider, which refuses what its model cannot read.
        reads_images = found is None or "vision" in found.types
        return ChatModelInfo(
            f"{provider}/{model}",
            context,
            self._created,
            owned_by=provider,
            max_images=MAX_REMOTE_IMAGES if reads_images else 0,
        )

    async def _ollama_names(self) -> tuple[str, ...]:
        now_s = self._clock()
        if self._tags is not None and now_s < self._tags[0] + TAGS_KEPT_S:
            return self._tags[1]
        try:
            answer = await self._connections["ollama"].origin.get_json("/api/tags", timeout_s=TAGS_TIMEOUT_S)
            names = tuple(_names(answer))
        except HubError as error:
            logger.info("Ollama's models are not listed: %s", error.message)
            names = ()
        self._tags = (now_s, names)
        return names

    def _connect(self, settings: ProviderSettings) -> dict[ProviderName, ProviderConnection]:
        origins: dict[ProviderName, Origin] = {}
        timeout_s = settings.timeout_s
        if settings.local_api_url:
            origins["local"] = Origin("local", settings.local_api_url, api_key=settings.local_api_key, timeout_s=timeout_s)
        services: tuple[tuple[ProviderName, str, SecretStr | None], ...] = (
            ("openai", settings.openai_base_url, settings.openai_api_key),
            ("github", settings.github_base_url, settings.github_api_key),
        )
        for name, url, key in services:
            if key is not None:
                retired = self._known.of(name).retired
                explain = explain_refusal if retired is None else partial(explain_retired, alternatives=retired)
                origins[name] = Origin(name, url, api_key=key, timeout_s=timeout_s, proxy=settings.proxy, explain=explain)
        if settings.ollama_url:
            origins["ollama"] = Origin("ollama", settings.ollama_url, timeout_s=timeout_s, explain=explain_ollama_refusal)
        return {name: ProviderConnection(origin, self._metrics, policy=self._policy) for name, origin in origins.items()}


def split_model_id(model_id: str) -> tuple[ProviderName | None, str]:
    """Return the provider a model id names by its prefix (`openai/gpt-4o-mini`), and the rest; None where it names none."""
    prefix, slash, rest = model_id.partition("/")
    for provider in PROVIDER_NAMES:
        if slash and rest and prefix == provider:
            return provider, rest
    return None, model_id


def _names(answer: dict[str, Any]) -> list[str]:
    models = answer.get("models")
    names = [model.get("name") for model in models if isinstance(model, dict)] if isinstance(models, list) else []
    return sorted(name for name in names if isinstance(name, str) and _MODEL_NAME.fullmatch(name))
