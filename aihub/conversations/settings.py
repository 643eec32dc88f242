"""What the operator sets for stored conversations: `AIHUB_CONVERSATION_...`."""

from pydantic import Field, PositiveInt
from pydantic_settings import SettingsConfigDict

from aihub.core.typed_configuration import EnvironmentSettings


class ConversationSettings(EnvironmentSettings):
    """How long conversations are kept, and whether what no longer fits is summarised.

    Raises:
        ConfigurationError: A variable has a wrong value.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_CONVERSATION_", extra="ignore", frozen=True, env_ignore_empty=True)

    days: PositiveInt | None = Field(
        default=None,
        le=36_500,
        description="Days without a message or a change after which a conversation is deleted; kept for ever when unset.",
    )
    summary: bool = Field(
        default=False,
        description="Whether the answering model summarises the turns that no longer fit its context, after its answer.",
    )
