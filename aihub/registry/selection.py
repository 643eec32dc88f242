"""Which models this hub serves at start: the profile's, unless the settings name others."""

from dataclasses import dataclass

from aihub.profiles import Profile
from aihub.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """A model to serve: the name clients send, and where it comes from (`package:<name>`, a folder or a hub id)."""

    model_id: str
    source: str


def select_chat_model(settings: Settings, profile: Profile) -> ModelChoice:
    """`AIHUB_CHAT_MODEL` wins over the profile."""
    return _select(settings.chat_model, settings.chat_model_id, ModelChoice(profile.llm.model_id, profile.llm.model_source))


def select_embedding_model(settings: Settings, profile: Profile) -> ModelChoice:
    """`AIHUB_EMBEDDING_MODEL` wins over the profile."""
    default = ModelChoice(profile.embeddings.model_id, profile.embeddings.model_source)
    return _select(settings.embedding_model, settings.embedding_model_id, default)


def _select(source: str | None, model_id: str | None, default: ModelChoice) -> ModelChoice:
    if source is None:
        return default
    return ModelChoice(model_id or source.rstrip("/").rsplit("/", 1)[-1].lower(), source)
