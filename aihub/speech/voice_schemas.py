"""The options of `POST /v1/voice/ask`, which arrive as the text fields of a form."""

from typing import Any

from pydantic import Field

from aihub.core.schemas import ClosedModel, ModelName, validate
from aihub.http.form_values import read_form_values
from aihub.speech.schemas import LanguageCode, Phrases
from aihub.speech.service import AUTO_MODEL, RecognitionOptions, VoiceQuestion


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
    phrases: Phrases = Field(default_factory=list)
    early_retrieval: bool = True
    stream: bool = True

    def question(self, chat: dict[str, Any]) -> VoiceQuestion:
        """Return the question with the fields of its chat request."""
        recognition = RecognitionOptions(self.speech_model, self.language, tuple(self.phrases))
        return VoiceQuestion(recognition, chat, self.early_retrieval)


def read_options(fields: dict[str, str]) -> tuple[VoiceFields, dict[str, Any]]:
    """Return the options, and the fields of the chat request as they came; an empty one counts as not sent.

    Raises:
        InvalidRequestError: An option is wrong; the message names it.
    """
    values: dict[str, Any] = {name: value for name, value in fields.items() if value}
    own = {name: values.pop(name) for name in VoiceFields.model_fields if name in values}
    return validate(VoiceFields, read_form_values(VoiceFields, own)), {"model": AUTO_MODEL} | values
