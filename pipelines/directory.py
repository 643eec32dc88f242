"""Chat models by name, wherever they are: in this cluster, at a provider, or chosen by `auto`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from aihub.chat.fallback import Candidate, FallbackEngine
from aihub.chat.history import EngineHistory, ObservedEngine
from aihub.chat.providers.pool import ProviderPool, split_model_id
from aihub.chat.providers.settings import KnownProviders, ProviderName
from aihub.chat.routing import AUTO, Decision, ModelCandidate, Router
from aihub.chat.service import ChatEngine, ChatModelInfo
from aihub.core.errors import ModelUnavailableError, NotFoundError
from aihub.core.logging import add_response_header
from aihub.core.principal import Principal
from pipelines.answer_basis import ModelIdentity
from pipelines.chat import IdentifyingDirectory, model_not_found
from pipelines.load_wait import LoadWait

Found = TypeVar("Found")

MODEL_HEADER = "x-aihub-model"
REASONS_HEADER = "x-aihub-route-reasons"


async def _no_favourite(_: Principal) -> str | None:
    return None


class ProviderDirectory:
    """Implements `pipelines.chat.EngineDirectory` over the local models and the providers.

    A name is looked up in this order: `auto`; a local model of exactly this name; a provider's prefix
    (`openai/gpt-4o-mini`, `ollama/gemma2:9b`, `github/openai/gpt-4o-mini`, `local/...`); the default provider.

    Args:
        local: The models of this cluster.
        local_candidates: What routing knows of the local models, installed ones that are not loaded included.
        favourite: The model that a caller wants `auto` to choose where it can.
    """

    def __init__(
        self,
        *,
        local: IdentifyingDirectory,
        local_candidates: Callable[[], Awaitable[Sequence[ModelCandidate]]],
        pool: ProviderPool,
        known: KnownProviders,
        router: Router,
        history: EngineHistory,
        favourite: Callable[[Principal], Awaitable[str | None]] = _no_favourite,
    ) -> None:
        self._favourite = favourite
        self._local = local
        self._local_candidates = local_candidates
        self._pool = pool
        self._known = known
        self._router = router
        self._history = history

    async def resolve(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, wait: LoadWait | None = None
    ) -> ChatEngine:
        """Return the engine of a model, with the configured fallbacks behind it.

        Args:
            body: The engine's body, by which `auto` decides; without it `auto` takes the request for plain chat.
            wait: Where a wait for a local model's load is noted.

        Raises:
            NotFoundError: No such model (`model_not_found`).
            ModelUnavailableError: It is known, but cannot be asked now; or `auto` finds none that can.
            InvalidRequestError: A provider's model name that cannot be one.
        """
        model_id = await self._chosen(principal, model_id, body)
        principal.require_model(model_id)
        order = self._pool.settings.fallback_order
        if not order:
            return (await self._find(principal, model_id, partial(self._local_engine, principal, wait=wait)))[1]
        return await self._with_fallbacks(principal, model_id, order, wait)

    async def identify(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, is_fresh: bool = False
    ) -> ModelIdentity | None:
        """Return the model that `resolve` would find, fallbacks apart; see `pipelines.answer_basis.ModelIdentifier`."""
        model_id = await self._chosen(principal, model_id, body)
        principal.require_model(model_id)
        find_local = partial(self._local.identify, principal, is_fresh=is_fresh)
        provider, found = await self._find(principal, model_id, find_local)
        if not isinstance(found, ObservedEngine):
            return found
        settings = self._pool.settings
        places = {"openai": settings.openai_base_url, "github": settings.github_base_url, "ollama": settings.ollama_url}
        return ModelIdentity(found.model_id, provider, places.get(provider) or settings.local_api_url or "")

    async def _chosen(self, principal: Principal, model_id: str, body: Mapping[str, Any] | None) -> str:
        """Return the model that `auto` chooses, and any other name as it is."""
        if model_id != AUTO:
            return model_id
        decision = await self.decide(principal, body or {"messages": []})
        add_response_header(MODEL_HEADER, decision.model_id)
        add_response_header(REASONS_HEADER, "; ".join(decision.reasons))
        return decision.model_id

    async def require(self, principal: Principal, model_id: str) -> None:
        """Raise what `resolve` raises of a name that nobody has; nothing is loaded and no provider is asked."""
        if model_id != AUTO:
            principal.require_model(model_id)
            await self._find(principal, model_id, partial(self._local.require, principal))

    async def require_choice(self, principal: Principal, model_id: str) -> None:
        """Refuse a wish that `auto` can never fulfil for a caller.

        Raises:
            PermissionDeniedError: The caller's key is not for the model (`model_not_allowed`).
            NotFoundError: It is none that `auto` chooses from (`model_not_found`).
            ModelUnavailableError: The hub does not know its models yet.
        """
        principal.require_model(model_id)
        known = {candidate.model_id for candidate in await self._local_candidates()}
        known |= {model_info.model_id for model_info in await self._pool.models()}
        if model_id not in known:
            names = sorted(filter(principal.may_use_model, known))
            await self.require(principal, model_id)  # tells that the models are not known yet
            raise NotFoundError(
                f"`auto` knows no model {model_id!r}. It chooses from: {', '.join(names) or 'none'}. `aihub models list` shows "
                "what is installed.",
                param="model",
                code="model_not_found",
            )

    async def list(self, principal: Principal) -> list[ChatModelInfo]:
        """Return the models that can be used now, local ones first."""
        models = [*await self._local.list(principal), *await self._pool.models()]
        return [model_info for model_info in models if principal.may_use_model(model_info.model_id)]

    async def decide(self, principal: Principal, body: Mapping[str, Any], *, preferred: str | None = None) -> Decision:
        """Choose a model for a body.

        Args:
            preferred: A wish; the caller's favourite when None. The configured one counts where nobody has what is wished for.

        Raises:
            ModelUnavailableError: No model can take the request.
        """
        known = [*await self._local_candidates(), *await self._remote_candidates()]
        candidates = [candidate for candidate in known if principal.may_use_model(candidate.model_id)]
        wish = preferred or await self._favourite(principal)
        if not any(candidate.model_id == wish for candidate in candidates):
            wish = self._pool.settings.preferred_model
        return self._router.decide(self._router.read(body), candidates, preferred=wish)

    async def _with_fallbacks(
        self, principal: Principal, model_id: str, order: Sequence[ProviderName], wait: LoadWait | None
    ) -> ChatEngine:
        try:
            provider, engine = await self._find(principal, model_id, partial(self._local_engine, principal, wait=wait))
        except ModelUnavailableError as error:
            provider = split_model_id(model_id)[0] or "local"
            candidates = [Candidate(provider, model_id, partial(_refused, error))]
        else:
            candidates = [Candidate(provider, model_id, partial(_ready, engine))]
        for name in order:
            if name != provider:
                candidates += await self._fallback(principal, name, split_model_id(model_id)[1], wait)
        return FallbackEngine([candidate for candidate in candidates if principal.may_use_model(candidate.model_id)])

    async def _fallback(
        self, principal: Principal, provider: ProviderName, asked: str, wait: LoadWait | None
    ) -> Sequence[Candidate]:
        """Return the candidate of a provider to fall back to; none where it has no model."""
        if provider == "local":
            model_infos = await self._local.list(principal)
            if model_infos:
                first = model_infos[0].model_id
                return [Candidate("local", first, partial(self._local_engine, principal, first, wait))]
        if provider not in self._pool.configured:
            return []
        model = self._pool.default_model(provider, asked)
        engine = self._remote_engine(provider, model)
        return [Candidate(provider, f"{provider}/{model}", partial(_ready, engine))]

    async def _find(
        self, principal: Principal, model_id: str, find_local: Callable[[str], Awaitable[Found]]
    ) -> tuple[ProviderName, ObservedEngine | Found]:
        """Return the engine of a name, of a local one what `find_local` does, and who has it; raises as `resolve`."""
        provider, name = split_model_id(model_id)
        if provider not in {None, "local"} and not await self._is_local(model_id):
            # Not a question for the model manager, which may be away.
            return provider, self._remote_engine(provider, name)
        try:
            return "local", await find_local(model_id)
        except NotFoundError as error:
            unknown = error
        if provider is None:
            return await self._find_at_default(principal, model_id, unknown)
        if provider == "local":
            try:
                return "local", await find_local(name)
            except NotFoundError:
                if "local" not in self._pool.configured:
                    raise
        return provider, self._remote_engine(provider, name)

    async def _is_local(self, model_id: str) -> bool:
        return any(candidate.model_id == model_id for candidate in await self._local_candidates())

    async def _find_at_default(
        self, principal: Principal, model_id: str, unknown: NotFoundError
    ) -> tuple[ProviderName, ObservedEngine]:
        provider = self._pool.settings.default_provider
        if provider == "local" and "local" not in self._pool.configured:
            model_infos = await self.list(principal)
            raise model_not_found(model_id, [model_info.model_id for model_info in model_infos]) from unknown
        return provider, self._remote_engine(provider, model_id)

    async def _local_engine(self, principal: Principal, model_id: str, wait: LoadWait | None) -> ChatEngine:
        return ObservedEngine(await self._local.resolve(principal, model_id, wait=wait), model_id, self._history)

    def _remote_engine(self, provider: ProviderName, model: str) -> ObservedEngine:
        return ObservedEngine(self._pool.engine(provider, model), f"{provider}/{model}", self._history, provider=provider)

    async def _remote_candidates(self) -> Sequence[ModelCandidate]:
        health = self._pool.health()
        found = []
        for model_info in await self._pool.models():
            provider, name = split_model_id(model_info.model_id)
            if provider is None or health[provider].status == "down":
                continue
            known = self._known.of(provider).find(name)
            types, languages = (known.types, known.languages) if known is not None else (("chat",), ("en",))
            found.append(
                ModelCandidate(model_info.model_id, frozenset(types), frozenset(languages), "remote", model_info.context_tokens)
            )
        return found


async def _ready(engine: ChatEngine) -> ChatEngine:
    return engine


async def _refused(error: ModelUnavailableError) -> ChatEngine:
    raise error
