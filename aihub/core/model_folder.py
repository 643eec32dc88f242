"""Which model folders may be loaded: safetensors and plain data, nothing that runs code.

Pickled weights run code when they are loaded (CVE-2025-32434), Python files and `auto_map` do so by design, and flags
that should forbid it have been ignored by loaders before (CVE-2026-27893), so such a folder is refused as a whole.
"""

import json
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError

REFUSED_SUFFIXES = frozenset({".bin", ".ckpt", ".joblib", ".mar", ".pickle", ".pkl", ".pt", ".pt2", ".pth", ".py", ".pyc", ".so"})
MAX_JSON_BYTES = 64 * 2**20


def check_model_folder(folder: Path) -> None:
    """Check that `folder` is a transformers or sentence-transformers model which can be loaded without running its code.

    Raises:
        ConfigurationError: Not a folder, no `config.json`, no safetensors weights, a file type that can carry code, an
            `auto_map`, or a sentence-transformers module from elsewhere. The message names the file.
    """
    if not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder. Give the folder of a model or a hub id such as org/name.")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.relative_to(folder).parts)
    for path in files:
        if path.suffix.lower() in REFUSED_SUFFIXES:
            raise ConfigurationError(
                f"{path} may carry code and is refused. Remove it; the hub loads safetensors weights and JSON only."
            )
    if not (folder / "config.json").is_file():
        raise ConfigurationError(f"{folder} has no config.json, so it is not a model folder.")
    if not any(path.suffix == ".safetensors" for path in files):
        raise ConfigurationError(f"{folder} has no .safetensors weights. Convert the model with save_pretrained first.")
    for path in files:
        if path.name.endswith("config.json"):
            _check_no_auto_map(path, read_json(path))
    _check_modules(folder)


def read_json(path: Path) -> Any:
    """Parse one JSON file of a model.

    Raises:
        ConfigurationError: Unreadable, not JSON, or larger than a model's settings ever are.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ConfigurationError(f"{path} is larger than {MAX_JSON_BYTES // 2**20} MiB; a settings file never is.")
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not readable JSON: {error}. Fetch the model again.") from error


def read_special_tokens(folder: Path) -> tuple[str, ...]:
    """Return the special tokens of a model's `tokenizer.json`, sorted; none where the model has no such file.

    Raises:
        ConfigurationError: The file is not readable JSON.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return ()
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(f"{path} is not readable JSON: {error}. Fetch the model again.") from error
    added = document.get("added_tokens", ()) if isinstance(document, dict) else ()
    return tuple(sorted({str(token["content"]) for token in added if token.get("special")}))


def read_weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all weights of a folder by name, from the heads of its safetensors files; no weight is read.

    Raises:
        ConfigurationError: There are none, or a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise ConfigurationError(f"{path} is not a readable safetensors file: {error}. Fetch the model again.") from error
    if not shapes:
        raise ConfigurationError(f"{folder} has no .safetensors weights. Fetch the model again.")
    return shapes


def _check_no_auto_map(path: Path, value: Any) -> None:
    if isinstance(value, dict):
        if "auto_map" in value:
            raise ConfigurationError(f"{path} asks to run the model's own code (auto_map), which the hub never does.")
        for item in value.values():
            _check_no_auto_map(path, item)
    elif isinstance(value, list):
        for item in value:
            _check_no_auto_map(path, item)


def _check_modules(folder: Path) -> None:
    path = folder / "modules.json"
    if not path.is_file():
        return
    modules = read_json(path)
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        raise ConfigurationError(f"{path} is not a list of modules. Fetch the model again.")
    for module in modules:
        kind, where = str(module.get("type")), str(module.get("path"))
        if not kind.startswith("sentence_transformers."):
            raise ConfigurationError(f"{path} names the module {kind!r}; only modules of sentence_transformers are loaded.")
        if not (folder / where).resolve().is_relative_to(folder.resolve()):
            raise ConfigurationError(f"{path} points outside of the model folder ({where!r}).")
