"""Which models can be trained, and why others cannot."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import HubError, InvalidRequestError, NotFoundError
from aihub.core.model_folder import read_json
from aihub.finetuning.adapter_ids import find_adapter_id
from aihub.finetuning.ollama_models import MODEL_NOT_TRAINABLE, OllamaModels

REMOTE_PREFIXES = ("openai", "github")
_MOST_NAMED = 20


@dataclass(frozen=True, slots=True)
class TrainableBase:
    """A local chat model.

    Attributes:
        model_id: The hub's name of it.
        folder: Its files: safetensors weights, tokenizer, `config.json`.
        digest: Of the installed version.
    """

    model_id: str
    folder: Path
    digest: str


FindBase = Callable[[str], TrainableBase | None]
"""By the model's id or key; None where no local chat model is called so."""

NameBases = Callable[[], Collection[str]]
"""Ids of all local chat models."""


@dataclass(frozen=True, slots=True)
class BaseShape:
    """What a job needs to know of its base model.

    Attributes:
        hidden_size: Width; None where its `config.json` does not say.
        context_tokens: Longest sequence it reads; None likewise.
    """

    hidden_size: int | None
    context_tokens: int | None


def require_base(
    name: str, param: str, *, find_base: FindBase, name_bases: NameBases, ollama_models: OllamaModels
) -> TrainableBase:
    """Return the model that a request names.

    Raises:
        NotFoundError: There is none of this name; the message lists what can be trained.
        InvalidRequestError: It is a model of Ollama, of a service elsewhere, or an adapter; code `model_not_trainable`.
    """
    found = find_base(name)
    if found is not None:
        return found
    if (adapter := find_adapter_id(name)) is not None and (base := find_base(adapter.base)) is not None:
        raise InvalidRequestError(
            f"{name[:256]!r} is an adapter. Train its base {base.model_id!r} with all rows that the model shall know.",
            param=param,
            code=MODEL_NOT_TRAINABLE,
        )
    if name.replace(":", "/").partition("/")[0] in REMOTE_PREFIXES:
        raise InvalidRequestError(
            f"{name[:256]!r} runs at a service elsewhere and cannot be trained here. {_trainable(name_bases())}",
            param=param,
            code=MODEL_NOT_TRAINABLE,
        )
    if (refusal := ollama_models.find_refusal(name, param)) is not None:
        raise refusal
    raise NotFoundError(
        f"There is no local model {name[:256]!r}. {_trainable(name_bases())}", param=param, code="model_not_found"
    )


def read_shape(base: TrainableBase, param: str) -> BaseShape:
    """Read a model's `config.json`. Blocking.

    Raises:
        InvalidRequestError: Its weights are quantised, code `model_not_trainable`, or the file is damaged.
    """
    try:
        config = read_json(base.folder / "config.json")
    except HubError as error:
        raise InvalidRequestError(
            f"The settings of the model {base.model_id!r} cannot be read. Install it again.",
            param=param,
            code=MODEL_NOT_TRAINABLE,
        ) from error
    config = config if isinstance(config, dict) else {}
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    if (quantization := _quantization(config) or _quantization(text)) is not None:
        raise InvalidRequestError(
            f"The weights of {base.model_id!r} are quantised ({quantization}) and cannot be trained. Install the model that it "
            'was made from, in 16 bits, and train that one; `"lora": {"method": "qlora"}` keeps it in 4 bits meanwhile.',
            param=param,
            code=MODEL_NOT_TRAINABLE,
        )
    return BaseShape(_number("hidden_size", text, config), _number("max_position_embeddings", text, config))


def _quantization(config: dict[str, Any]) -> str | None:
    found = config.get("quantization_config")
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else None
    return str(method or "of an unknown kind").upper()[:64]


def _number(key: str, *configs: dict[str, Any]) -> int | None:
    for config in configs:
        if isinstance(value := config.get(key), int) and value > 0:
            return value
    return None


def _trainable(names: Collection[str]) -> str:
    if not names:
        return "No model can be trained here yet. Install one: `aihub models download hf:Qwen/Qwen2.5-0.5B-Instruct`."
    shown = ", ".join(sorted(names)[:_MOST_NAMED])
    return f"These can be trained: {shown}{', ...' if len(names) > _MOST_NAMED else ''}."
