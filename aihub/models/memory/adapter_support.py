"""Which models can be served with LoRA adapters, and on which of their layers; told without importing vLLM.

vLLM says it by the class `SupportsLoRA` among the bases of a model's class, so its source is read, the few files that matter.
Layers for tokens (embedding and output) get no adapters: training leaves them out, buffers for them would be the largest
ones, and on a CPU every token would pay for them.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aihub.core.errors import ConfigurationError
from aihub.core.model_folder import read_weight_shapes
from aihub.models.memory.vision import has_vision

QUANTIZATIONS = frozenset({None, "awq", "awq_marlin", "gptq", "gptq_marlin", "fp8", "compressed-tensors"})
"""Methods whose layers vLLM puts adapters on."""

_MARKER = "SupportsLoRA"
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_WEIGHTS = (".weight", ".qweight", ".weight_packed")


@dataclass(frozen=True, slots=True)
class AdapterSupport:
    """Whether a model can have adapters.

    Attributes:
        modules: Names of the linear layers that may have one.
        refusal: Why it can have none, as a sentence; None when it can.
    """

    modules: tuple[str, ...] = ()
    refusal: str | None = None


def read_adapter_support(folder: Path, config: Mapping[str, Any], quantization: str | None) -> AdapterSupport:
    """Say whether the model of a folder can have adapters; blocking.

    Args:
        config: Its parsed `config.json`.
        quantization: vLLM's name of the method; None for weights that are not quantised.
    """
    names = [str(name) for name in config.get("architectures") or ()]
    text = config.get("text_config") or config
    if not any(engine_supports_adapters(name) for name in names):
        return AdapterSupport(refusal=f"The engine serves no adapters for models of the kind {', '.join(names) or 'unknown'}.")
    if has_vision(config):
        return AdapterSupport(refusal="Adapters for models that see are not served here.")
    if any(text.get(name) for name in _EXPERTS):
        return AdapterSupport(refusal="Adapters for mixtures of experts are not served here.")
    if quantization not in QUANTIZATIONS:
        return AdapterSupport(refusal=f"The engine puts no adapters on weights quantised by {quantization}.")
    changed_ns = tuple((path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.safetensors")))
    try:
        modules = _linear_modules(folder, changed_ns)
    except ConfigurationError as error:  # whoever starts the model is told more
        return AdapterSupport(refusal=error.message)
    return AdapterSupport(modules) if modules else AdapterSupport(refusal="Its weights name no linear layers.")


@cache
def engine_supports_adapters(architecture: str) -> bool:
    """Whether vLLM's class for an architecture (`LlamaForCausalLM`) takes adapters; False where vLLM is not installed."""
    folder = _models_folder()
    if folder is None:
        return False
    module, name = _architectures(folder).get(architecture, ("", ""))
    return bool(module) and _is_marked(folder, module, name)


def _models_folder() -> Path | None:
    spec = find_spec("vllm")
    for place in spec.submodule_search_locations or () if spec is not None else ():
        folder = Path(place, "model_executor", "models")
        if (folder / "registry.py").is_file():
            return folder
    return None


@cache
def _architectures(folder: Path) -> dict[str, tuple[str, str]]:
    """Module and class of each architecture that vLLM's registry of generating models names."""
    found: dict[str, tuple[str, str]] = {}
    for table in _parse(folder, "registry").body:
        if isinstance(table, ast.Assign) and isinstance(table.value, ast.Dict) and _name_of(table.targets[0]) in _TABLES:
            for key, value in zip(table.value.keys, table.value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                    module, name = ast.literal_eval(value)[:2]
                    found[str(key.value)] = (str(module), str(name))
    return found


_TABLES = frozenset({"_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS"})


def _is_marked(folder: Path, module: str, name: str) -> bool:
    """Whether a class or one of its bases in vLLM's folder of models has the marker among its bases."""
    if not (folder / f"{module}.py").is_file():
        return False
    for node in _parse(folder, module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [_name_of(base) for base in node.bases]
            return _MARKER in bases or any(_is_marked(folder, *place) for place in _places(folder, module, bases))
    return False


def _places(folder: Path, module: str, names: list[str]) -> Iterator[tuple[str, str]]:
    """Module and own name of each class that `names` are in a module: defined there or imported from a neighbour."""
    for node in _parse(folder, module).body:
        if isinstance(node, ast.ClassDef) and node.name in names:
            yield module, node.name
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            for alias in node.names:
                if (alias.asname or alias.name) in names:
                    yield node.module.rpartition(".")[2], alias.name


@cache
def _parse(folder: Path, module: str) -> ast.Module:
    return ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))


def _name_of(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


@lru_cache(maxsize=256)
def _linear_modules(folder: Path, _changed_ns: tuple[tuple[str, int], ...]) -> tuple[str, ...]:
    """Last parts of the names of linear layers, by the headers of the weights: matrices inside numbered layers.

    Args:
        _changed_ns: Names of the files, and when they changed; others are read again.
    """
    found: set[str] = set()
    for key, shape in read_weight_shapes(folder).items():
        name = next((key.removesuffix(suffix) for suffix in _WEIGHTS if key.endswith(suffix)), "")
        parts = name.split(".")
        is_layer = any(part.isdecimal() for part in parts[:-1]) and not parts[-1].isdecimal()
        if is_layer and len(shape) == 2 and not any(word in parts[-1] for word in ("norm", "embed")):
            found.add(parts[-1])
    return tuple(sorted(found))
