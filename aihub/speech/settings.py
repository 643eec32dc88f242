"""Settings of speech recognition; every field is a variable. How many listen at once depends on the machine: `SpeechProfile`."""

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import SettingsConfigDict

from aihub.core.typed_configuration import EnvironmentSettings


class SpeechSettings(EnvironmentSettings):
    """Limits of speech recognition.

    Raises:
        ConfigurationError: A variable has a wrong value; the message names each.
    """

    model_config = SettingsConfigDict(env_prefix="AIHUB_SPEECH_", extra="ignore", frozen=True, env_ignore_empty=True)

    live_model: str | None = Field(
        default=None, description="Speech model of live streams that name none; by default the language is told by hearing."
    )
    max_audio_s: PositiveFloat = Field(default=4 * 3600.0, description="Longest audio of one request, file or live stream.")
    whole_audio_s: PositiveFloat = Field(
        default=60.0, description="Longest audio that is heard in one go; longer files are cut at silences and heard in parallel."
    )
    max_waiting_files: PositiveInt = Field(
        default=16, description="Files that are transcribed or wait; further ones get 503 with Retry-After at once."
    )
    stream_idle_s: PositiveFloat = Field(default=60.0, description="A live stream that gets nothing for so long is closed.")
    answer_timeout_s: PositiveFloat = Field(
        default=30.0, description="Longest time for one piece of audio (2 s); its process is ended then."
    )
    memory_mb: PositiveInt = Field(default=1024, description="MiB that one file part or live stream may take beside the model.")
    rest_after_s: PositiveFloat = Field(
        default=60.0, description="A model that nobody used for so long leaves the memory; the next request loads it again."
    )
