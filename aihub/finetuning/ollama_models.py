"""Models of Ollama, which are GGUF files and cannot be trained, and the models of the Hugging Face hub they were made from."""

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from aihub.core.errors import InvalidRequestError
from aihub.core.profiles import StrictModel
from aihub.core.typed_configuration import load_typed_yaml

OLLAMA_MODELS_FILE = Path(__file__).resolve().parents[2] / "configs" / "finetuning" / "ollama_models.yaml"

HubId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]

_PREFIX = re.compile(r"ollama[:/]")
_NAME = re.compile(r"(?P<family>[a-z0-9][a-z0-9._-]*)(?::(?P<tag>[A-Za-z0-9][A-Za-z0-9._-]*))?")
MODEL_NOT_TRAINABLE = "model_not_trainable"


class OllamaFamily(StrictModel):
    """One name of Ollama's library.

    Attributes:
        default: Size of the tag `latest`.
        sizes: Ids of the Hugging Face hub by size.
        gated: They ask for a licence to be accepted.
    """

    default: str
    sizes: Annotated[dict[str, HubId], Field(min_length=1)]
    gated: bool = False

    @model_validator(mode="after")
    def _default_is_a_size(self) -> Self:
        if self.default not in self.sizes:
            raise ValueError(f"default must be one of {', '.join(self.sizes)}")
        return self

    def find(self, tag: str | None) -> str:
        """Return the model a tag stands for: the one of its size, else the default one."""
        size = (tag or self.default).lower().partition("-")[0]
        return self.sizes.get(size, self.sizes[self.default])


class OllamaModels(StrictModel):
    """`configs/finetuning/ollama_models.yaml`."""

    families: dict[str, OllamaFamily]

    def find_refusal(self, name: str, param: str) -> InvalidRequestError | None:
        """Return why a model of Ollama is not trained, and what can be instead; None where `name` means none of Ollama's.

        Args:
            name: `llama2:7b`, `ollama/llama2:7b`, `ollama:llama2:7b`, or a bare `llama2`.
            param: The request field it stands in.
        """
        is_marked = _PREFIX.match(name) is not None
        bare = _PREFIX.sub("", name, count=1)
        match = _NAME.fullmatch(bare)
        family = self.families.get(match["family"]) if match else None
        if family is None or match is None:
            # A tag alone is how Ollama writes names; anything else may be a model of the hub that is not here.
            if not is_marked and (match is None or match["tag"] is None):
                return None
            return _refuse(
                name, param, "Find the model it was made from at https://huggingface.co (`ollama show` names its family)", None
            )
        hub_id = family.find(match["tag"])
        licence = " (accept its licence there first, and set HF_TOKEN)" if family.gated else ""
        return _refuse(name, param, f"Train {hub_id} instead{licence}", hub_id)


def _refuse(name: str, param: str, advice: str, hub_id: str | None) -> InvalidRequestError:
    command = f"`aihub models download hf:{hub_id or '<org>/<name>'}`"
    return InvalidRequestError(
        f"{name[:256]!r} is a model of Ollama: a quantised GGUF file, which cannot be trained. {advice}, get it with {command} "
        "and name it as GET /v1/models lists it.",
        param=param,
        code=MODEL_NOT_TRAINABLE,
    )


def load_ollama_models(path: Path = OLLAMA_MODELS_FILE) -> OllamaModels:
    """Load the table.

    Raises:
        ConfigurationError: The file is no YAML, or a key or value is wrong; the message names each.
    """
    return load_typed_yaml(path, OllamaModels)
