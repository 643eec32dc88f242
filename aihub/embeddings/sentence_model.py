"""What a sentence-transformers folder says about its model, read from its JSON files without loading it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_json

Pooling = Literal["mean", "cls"]

# Model type -> row of the position table that belongs to the first token, less the padding id.
BERT_FAMILY = {"bert": None, "roberta": 1, "xlm-roberta": 1}
LARGEST_WEIGHTS_BYTES = 1_500_000_000  # One ONNX file holds at most 2 GB.
KNOWN_MODULES = {"Transformer", "Pooling", "Normalize"}


@dataclass(frozen=True, slots=True)
class SentenceModel:
    """Facts about one encoder.

    Attributes:
        max_tokens: Longest input, special tokens included.
        pooling: How token vectors become one; None for ways other than mean and first token.
        only_known_modules: Nothing but transformer, pooling and normalisation is in it.
    """

    config: dict[str, Any]
    max_tokens: int
    vocabulary_size: int
    pooling: Pooling | None
    only_known_modules: bool


def read_sentence_model(folder: Path) -> SentenceModel:
    """Read the settings of a model folder; a plain transformers encoder counts as one with mean pooling.

    Raises:
        ConfigurationError: A file is missing or unreadable, or it has no fast tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ConfigurationError(f"{folder} has no tokenizer.json. Save the model with its fast tokenizer.")
    config = read_json(folder / "config.json")
    modules = _read_optional(folder / "modules.json") or []
    kinds = [str(module["type"]).rsplit(".", 1)[-1] for module in modules]
    pooling_at = next(
        (folder / str(module["path"]) for module, kind in zip(modules, kinds, strict=True) if kind == "Pooling"), None
    )
    return SentenceModel(
        config=config,
        max_tokens=_max_tokens(folder, config),
        vocabulary_size=int(config["vocab_size"]),
        pooling=_pooling(pooling_at),
        only_known_modules=set(kinds) <= KNOWN_MODULES,
    )


def first_position(config: dict[str, Any]) -> int:
    """Row of the position table that belongs to the first token."""
    offset = BERT_FAMILY.get(str(config.get("model_type")))
    return 0 if offset is None else int(config["pad_token_id"]) + offset


def why_not_onnx(folder: Path, model: SentenceModel) -> str | None:
    """Say why the ONNX graph of the BERT family does not fit this model, or None when it does."""
    config = model.config
    if config.get("model_type") not in BERT_FAMILY:
        return f"its architecture is {config.get('model_type')!r}, not of the BERT family"
    if config.get("hidden_act") != "gelu" or config.get("position_embedding_type", "absolute") != "absolute":
        return "its activation or positions differ from BERT's"
    if model.pooling is None or not model.only_known_modules:
        return "it pools in another way than mean or first token"
    if sum(file.stat().st_size for file in folder.glob("*.safetensors")) > LARGEST_WEIGHTS_BYTES:
        return "its weights are too large for one ONNX file"
    return None


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    positions = int(config.get("max_position_embeddings", 512)) - first_position(config)
    stated = (_read_optional(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    return min(positions, int(stated)) if stated else positions


def _pooling(folder: Path | None) -> Pooling | None:
    if folder is None:
        return "mean"
    settings = read_json(folder / "config.json")
    if "pooling_mode" in settings:
        mode = str(settings["pooling_mode"])
        return "mean" if mode == "mean" else "cls" if mode == "cls" else None
    chosen = [name for name, is_on in settings.items() if name.startswith("pooling_mode_") and is_on is True]
    modes: dict[str, Pooling] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    return modes.get(chosen[0]) if len(chosen) == 1 else None


def _read_optional(path: Path) -> Any:
    return read_json(path) if path.is_file() else None
