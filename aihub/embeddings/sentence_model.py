"""What a sentence-transformers folder says about its model, read from its JSON files without loading it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_json

# Model type -> row of the position table that belongs to the first token, less the padding id.
BERT_FAMILY = {"bert": None, "roberta": 1, "xlm-roberta": 1}


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """Facts about one encoder.

    Attributes:
        max_tokens: Longest input, special tokens included.
    """

    config: dict[str, Any]
    max_tokens: int
    vocabulary_size: int


def read_sentence_model(folder: Path) -> SentenceModel:
    """Read the settings of a model folder; a plain transformers encoder is one, too.

    Raises:
        ConfigurationError: A file is missing or unreadable, or it has no fast tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ConfigurationError(f"{folder} has no tokenizer.json. Save the model with its fast tokenizer.")
    config = read_json(folder / "config.json")
    return SentenceModel(
        config=config,
        max_tokens=_max_tokens(folder, config),
        vocabulary_size=int(config["vocab_size"]),
    )


def first_position(config: dict[str, Any]) -> int:
    """Row of the position table that belongs to the first token."""
    offset = BERT_FAMILY.get(str(config.get("model_type")))
    return 0 if offset is None else int(config["pad_token_id"]) + offset


def why_not_openvino(model: SentenceModel) -> str | None:
    """Say why the model is not converted, or None when it is."""
    kind = model.config.get("model_type")
    return None if kind in BERT_FAMILY else f"its architecture is {kind!r}, not of the BERT family"


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    positions = int(config.get("max_position_embeddings", 512)) - first_position(config)
    stated = (_read_optional(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return min(positions, int(stated)) if stated else positions


def _read_optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
