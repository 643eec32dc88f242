"""The caller of a request: whose things it may see, what it may do, and how much."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote

from aihub.core.errors import PermissionDeniedError

DEFAULT_TENANT = "default"

Role = Literal["admin", "user"]


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use; None means without limit.

    Attributes:
        requests_per_minute, tokens_per_minute: Over any 60 s.
        streams: Answers streamed at the same time.
        tokens_per_day: Over a day of UTC.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None
    tokens_per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever sent the request; all storage calls are scoped by `tenant_id`.

    What a hub without keys and Python code on its own cluster use is the default: the administrator of the default tenant.

    Attributes:
        user_id: The user or service account that the key belongs to; conversations and preferences are theirs. None without keys.
        key_id: The key's public id, never the key; None without keys.
        routes: Route templates, or beginnings of them, that the key is for; None for all that its role may use.
        models: Model ids that the key may ask; None for all.
        vector_stores: Ids of vector stores that the key may use; None for all of its tenant.
    """

    tenant_id: str = DEFAULT_TENANT
    role: Role = "admin"
    user_id: str | None = None
    key_id: str | None = None
    routes: frozenset[str] | None = None
    models: frozenset[str] | None = None
    vector_stores: frozenset[str] | None = None
    limits: KeyLimits = field(default_factory=KeyLimits)

    @property
    def owner_id(self) -> str:
        """Whose conversations and preferences these are within the tenant; empty without accounts."""
        return self.user_id or ""

    @property
    def redis_prefix(self) -> str:
        """Beginning of the names of all that Redis holds for this account alone, by which it goes with a deleted user."""
        return f"aihub:owner:{quote(self.tenant_id, safe='')}:{quote(self.owner_id, safe='')}:"

    def may_use_model(self, model_id: str) -> bool:
        """Whether the key is for this model."""
        return self.models is None or model_id in self.models

    def require_model(self, model_id: str) -> None:
        """Refuse a model that the key is not for.

        Raises:
            PermissionDeniedError: It is not among `models` (`model_not_allowed`).
        """
        if self.models is not None and not self.may_use_model(model_id):
            raise PermissionDeniedError(
                f"This API key may not use the model {model_id[:256]!r}. It may use: {', '.join(sorted(self.models)) or 'none'}.",
                param="model",
                code="model_not_allowed",
            )

    def require_vector_stores(self, ids: Iterable[str], param: str) -> None:
        """Refuse vector stores that the key is not for.

        Raises:
            PermissionDeniedError: One is not among `vector_stores` (`vector_store_not_allowed`); `param` names the field.
        """
        if self.vector_stores is None:
            return
        refused = [store_id for store_id in ids if store_id not in self.vector_stores]
        if refused:
            raise PermissionDeniedError(
                f"This API key may not use the vector store {refused[0][:64]!r}.", param=param, code="vector_store_not_allowed"
            )
