"""The options of `POST /v1/voice/ask`, which arrive as the text fields of a form."""

from typing import Annotated, Any

from pydantic import Field, StringConstraints

from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import ClosedModel, ModelName, validate
from aihub.http.strict_json import parse_strict_json
from aihub.speech.service import AUTO_MODEL, RecognitionOptions, VoiceQuestion

Phrase = Annotated[str, StringConstraints(min_length=1, max_length=200)]
LanguageCode = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}$")]
MAX_PHRASES = 1_000

_TEXTS = frozenset({"model", "speech_model", "language"})
"""Options that are never JSON."""


class VoiceFields(ClosedModel):
    """What is asked beside the chat request's own fields.

    Attributes:
        speech_model: Key of an installed speech model, or `auto`.
        language: ISO 639-1 code; with `auto`, the only language whose models are tried.
        phrases: Words and phrases to listen for; nothing else is recognised then.
        early_retrieval: Whether sources are searched for while the speech arrives.
    """

    speech_model: ModelName = AUTO_MODEL
    language: LanguageCode | None = None
    phrases: Annotated[list[Phrase], Field(max_length=MAX_PHRASES)] = Field(default_factory=list)
    early_retrieval: bool = True
    stream: bool = True

    def question(self, chat: dict[str, Any]) -> VoiceQuestion:
        """Return the question with the fields of its chat request."""
        recognition = RecognitionOptions(self.speech_model, self.language, tuple(self.phrases))
        return VoiceQuestion(recognition, chat, self.early_retrieval)


def read_options(fields: dict[str, str]) -> tuple[VoiceFields, dict[str, Any]]:
    """Return the options and the fields of the chat request.

    Every option but `model`, `speech_model` and `language` is JSON; text that is none stands for itself.

    Raises:
        InvalidRequestError: An option is wrong; the message names it.
    """
    values = {name: value if name in _TEXTS else _json_value(name, value) for name, value in fields.items()}
    own = {name: values.pop(name) for name in VoiceFields.model_fields if name in values}
    return validate(VoiceFields, own), {"model": AUTO_MODEL} | values


def _json_value(name: str, text: str) -> Any:
    stripped = text.strip()
    is_structure = stripped[:1] in {"[", "{"}
    try:
        return parse_strict_json(stripped.encode())
    except InvalidRequestError as error:
        if is_structure:
            raise InvalidRequestError(f"The option `{name[:64]}` is no valid JSON. {error.message}", param=name[:64]) from error
        return text
