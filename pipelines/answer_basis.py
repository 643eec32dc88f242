"""What an answer rests on beside its request: the model as it is now, and the documents as they are now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from aihub.chat.completions import CompletionRequest
from aihub.chat.schemas import ChatCompletionRequest, RetrievalOptions
from aihub.core.principal import Principal
from aihub.documents.tables.records import StoreVersion
from aihub.embeddings.service import Embedder


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """The model that a name stands for now.

    Attributes:
        model_id: Its own name: of an alias the promoted version, of `auto` the chosen model.
        version: Changes with its files, its generation defaults and how it is served. For a provider's model it is the address:
            what the provider does behind the name, nobody here knows.
    """

    model_id: str
    provider: str
    version: str


@dataclass(frozen=True, slots=True)
class AnswerBasis:
    """Two answers to one request on one basis may stand for each other.

    Attributes:
        sources: Versions of what retrieval looks at; empty without retrieval.
    """

    model: ModelIdentity
    sources: tuple[str, ...] = ()


class BasisFinder(Protocol):
    """`pipelines.chat.ChatPipeline`."""

    async def find_basis(self, principal: Principal, request: ChatCompletionRequest | CompletionRequest) -> AnswerBasis | None:
        """Return what an answer to the request rests on, read before it is made; None where that is not known now.

        Raises:
            HubError: Whatever is wrong with the vector stores, as the answer would.
        """
        ...

    async def is_still(self, principal: Principal, model_id: str, identity: ModelIdentity) -> bool:
        """Whether a name stands for the same model as before, by news that are younger than this call."""
        ...


class ModelIdentifier(Protocol):
    """Tells what names of models stand for."""

    async def identify(
        self, principal: Principal, model_id: str, body: Mapping[str, Any] | None = None, *, is_fresh: bool = False
    ) -> ModelIdentity | None:
        """Return the model of a name, without loading or asking it; None where its version is not known now.

        Args:
            body: The engine's body, by which `auto` decides.
            is_fresh: Hear first what has changed.

        Raises:
            NotFoundError: No such model (`model_not_found`).
            PermissionDeniedError: The caller's key is not for it.
        """
        ...


class StoreVersions(Protocol):
    """`aihub.documents.tables.vector_stores.VectorStoreTable`."""

    async def content_versions(self, tenant_id: str, store_ids: Sequence[str]) -> list[StoreVersion]: ...

    async def touch(self, tenant_id: str, store_ids: Sequence[str]) -> None: ...


async def read_source_versions(
    principal: Principal, options: RetrievalOptions, stores: StoreVersions, embedder: Embedder
) -> tuple[str, ...] | None:
    """Return the versions of what a search looks at, which then counts as used; None when a store has expired.

    Raises:
        NotFoundError: A vector store that does not exist.
        PermissionDeniedError: One that the caller's key is not for.
        UnavailableError: PostgreSQL or the embedder does not answer.
    """
    ids = list(dict.fromkeys(options.vector_store_ids))
    principal.require_vector_stores(ids, "retrieval.vector_store_ids")
    versions = await stores.content_versions(principal.tenant_id, ids)
    if any(version.is_expired for version in versions):
        return None
    if any(version.is_unused for version in versions):
        await stores.touch(principal.tenant_id, ids)
    sources = tuple(f"{version.id} {version.version} {version.embedding_model}" for version in versions)
    # Search by words needs no embedder.
    return sources if options.mode == "text" else (*sources, repr(await embedder.model_info()))
