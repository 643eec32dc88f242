r"""The words around retrieved text: typed templates from `configs/prompts/*.yaml`, and the message built from them.

Templates hold no placeholders. A message is made by joining strings, so nothing a user or a document says (`{x}`,
`{{7*7}}`, `%s`) is ever taken for a field. Retrieved text is data: every source stands between `\"\"\"` lines under its
number, and whatever a chat template could take for a role, or the model for a source number, is defused first.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from aihub.chat.markers import neutralise_markers
from aihub.core.errors import ConfigurationError
from aihub.core.language import has_vietnamese_letters
from aihub.core.profiles import StrictModel
from aihub.core.typed_configuration import load_typed_yaml

PROMPTS_DIR = Path(__file__).resolve().parent.parent / "configs" / "prompts"
DEFAULT_LANGUAGE = "en"
MAX_NAME_CHARS = 120

QUOTE = '"""'

# `neutralise_markers` leaves these to the model at hand, as they can be meant; in retrieved and attached text nothing is lost.
_MORE_MARKERS = (
    *("<s>", "</s>", "<unk>", "<pad>", "<think>", "</think>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
)
_SOURCE_NUMBER = re.compile(r"(?<![\w\])])\[(\d{1,3})\]")


class PromptTemplate(StrictModel):
    """The fixed words of one language.

    Attributes:
        language: ISO 639-1 code, equal to the file's name.
        sources_title: Heading over the sources.
        instruction: What to do with them; the question follows it on the same line.
        no_sources: Stands before the question when retrieval found nothing.
        caption: Asks a vision model for the text by which an image is found.
    """

    language: str = Field(pattern=r"^[a-z]{2}$")
    sources_title: str = Field(min_length=1)
    instruction: str = Field(min_length=1)
    no_sources: str = Field(min_length=1)
    caption: str = Field(min_length=1)


class Prompts:
    """Templates by language; English serves every language without a template of its own.

    Attributes:
        version: Digest of all words.
    """

    def __init__(self, templates: Sequence[PromptTemplate]) -> None:
        """Keep the templates.

        Raises:
            ConfigurationError: No English template, or two of one language.
        """
        self._templates = {template.language: template for template in templates}
        if len(self._templates) != len(templates):
            raise ConfigurationError("Two prompt templates have the same language; keep one of them.")
        if DEFAULT_LANGUAGE not in self._templates:
            raise ConfigurationError("No English prompt template: add configs/prompts/en.yaml.")
        words = "\0".join(template.model_dump_json() for _, template in sorted(self._templates.items()))
        self.version = hashlib.sha256(words.encode()).hexdigest()

    @property
    def languages(self) -> tuple[str, ...]:
        return tuple(sorted(self._templates))

    def for_text(self, text: str) -> PromptTemplate:
        """Choose by the letters of `text`: Vietnamese ones choose `vi`, all others English."""
        return self.for_language("vi" if has_vietnamese_letters(text) else DEFAULT_LANGUAGE)

    def for_language(self, language: str) -> PromptTemplate:
        """Return the template of a language, the English one where it has none."""
        return self._templates.get(language, self._templates[DEFAULT_LANGUAGE])


def load_prompts(directory: Path = PROMPTS_DIR) -> Prompts:
    """Load every `*.yaml` in `directory`.

    Raises:
        ConfigurationError: A file is no YAML, a key is unknown or missing, or a value is wrong; the message names each.
    """
    return Prompts([_load_template(path) for path in sorted(directory.glob("*.yaml"))])


def _load_template(path: Path) -> PromptTemplate:
    template = load_typed_yaml(path, PromptTemplate, what="Prompt file")
    if template.language != path.stem:
        raise ConfigurationError(f"Prompt file {path.name} says language {template.language!r}; make both equal.")
    return template


def question_message(template: PromptTemplate, question: str, blocks: Sequence[str]) -> str:
    """Build the user message: sources as `source_block` rendered them, instruction, the question as the user wrote it.

    The question comes last because small models answer what stands last; long prompts made them answer something else.
    """
    listed = "\n\n".join(blocks)
    return f"{template.sources_title}\n\n{listed}\n\n{template.instruction} {question}"


def sourceless_message(template: PromptTemplate, question: str) -> str:
    """Build the user message that tells the model that nothing was found."""
    return f"{template.no_sources}\n\n{question}"


def source_block(number: int, name: str, text: str) -> str:
    """Render one source; its name and text can neither close the block nor forge a role or another source."""
    title = " ".join(defuse(name).split())[:MAX_NAME_CHARS]
    return f"[{number}] {title}\n{QUOTE}\n{defuse(text)}\n{QUOTE}"


def defuse(text: str, *, has_sources: bool = True) -> str:
    """Break what a chat template, the source fence or a source number could be mistaken for; all else stays literal.

    Chat-template markers get an invisible word joiner (`neutralise_markers`), `[3]` becomes `(3)`.

    Args:
        has_sources: Whether numbered sources stand in the prompt; without them numbers stay as they are.
    """
    broken = neutralise_markers(text, _MORE_MARKERS).replace(QUOTE, "'''")
    return _SOURCE_NUMBER.sub(r"(\1)", broken) if has_sources else broken
