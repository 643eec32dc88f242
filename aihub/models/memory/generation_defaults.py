"""What requests to a local model get where they say nothing: who may set it, in which order, and what is in force."""

import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from aihub.core.errors import ConfigurationError
from aihub.core.files import write_document
from aihub.core.model_folder import read_json
from aihub.core.profiles import GenerationProfile
from aihub.core.settings import Settings
from aihub.models.schemas import GenerationDefaults

logger = logging.getLogger(__name__)

GENERATION_FIELDS = tuple(GenerationDefaults.model_fields)
OWN_CONFIG_NAME = "generation_config.json"


class GenerationDefaultsStore:
    """What was set while the hub ran, kept in the state folder so that it outlives the model's time in memory.

    One JSON file: values by model id. Blocking; safe for threads of one process.

    Args:
        path: The file; need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def read(self, model_id: str) -> dict[str, Any]:
        """Return the values set for a model; none where the file is missing or unreadable."""
        return self._read_all().get(model_id, {})

    def update(self, model_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Set values, take back those that are None, and return what is set for the model now."""
        with self._lock:
            everything = self._read_all()
            values = {name: value for name, value in (everything.get(model_id, {}) | changes).items() if value is not None}
            write_document(self._path, everything | {model_id: values})
        return values

    def _read_all(self) -> dict[str, dict[str, Any]]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            logger.warning("%s is not readable (%s); what it set does not count.", self._path, error)
            return {}
        if not isinstance(document, dict):
            return {}
        return {name: values for name, values in document.items() if isinstance(values, dict)}


class GenerationDefaultsInForce:
    """Merges the sources of a local model's defaults (docs/adr/0017-generation-defaults.md). Blocking.

    Args:
        store: What was set while the hub ran.
        settings: The environment's `DEFAULT_...`.
        profile: The profile's `generation`.
        folder_of: Returns a model's folder; None for a model that is not installed.
    """

    def __init__(
        self,
        store: GenerationDefaultsStore,
        settings: Settings,
        profile: GenerationProfile,
        folder_of: Callable[[str], Path | None],
    ) -> None:
        self._store = store
        self._environment = environment_defaults(settings)
        self._profile = profile.model_dump()
        self._folder_of = folder_of

    def read(self, model_id: str) -> dict[str, Any]:
        """Return what a request to the model gets for each field that it leaves out."""
        folder = self._folder_of(model_id)
        own = read_own_defaults(folder) if folder is not None else {}
        return merge_defaults(self._store.read(model_id), self._environment, own, self._profile)

    def update(self, model_id: str, changes: dict[str, Any]) -> dict[str, Any]:
        """Set values at run time, take back those that are None, and return what is in force."""
        self._store.update(model_id, changes)
        return self.read(model_id)


def merge_defaults(
    run_time: Mapping[str, Any], environment: Mapping[str, Any], own: Mapping[str, Any], profile: Mapping[str, Any]
) -> dict[str, Any]:
    """Merge field by field; the first source that names a field wins.

    Of the model's own and the profile's `max_tokens` the smaller one counts: how long one answer may occupy the machine is
    for its operator to say, not for the model's authors.
    """
    merged = {**profile, **own}
    if "max_tokens" in own and "max_tokens" in profile:
        merged["max_tokens"] = min(own["max_tokens"], profile["max_tokens"])
    return merged | dict(environment) | dict(run_time)


def environment_defaults(settings: Settings) -> dict[str, Any]:
    """Return what the environment sets."""
    values = {
        "max_tokens": settings.default_max_tokens,
        "temperature": settings.default_temperature,
        "top_p": settings.default_top_p,
        "top_k": settings.default_top_k,
    }
    return {name: value for name, value in values.items() if value is not None}


def read_own_defaults(folder: Path) -> dict[str, Any]:
    """Read what a model's authors recommend, from its `generation_config.json`; none where there is no such file.

    `max_new_tokens` becomes `max_tokens`. Values that no request may have either are logged and left out.
    """
    path = folder / OWN_CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        document = read_json(path)
    except ConfigurationError as error:
        logger.warning("%s The model's own generation defaults do not count.", error.message)
        return {}
    if not isinstance(document, dict):
        return {}
    stated = {name: document.get(name) for name in GENERATION_FIELDS} | {"max_tokens": document.get("max_new_tokens")}
    own: dict[str, Any] = {}
    for name, value in stated.items():
        if value is None:
            continue
        try:
            own[name] = getattr(GenerationDefaults.model_validate({name: value}), name)
        except ValidationError:
            logger.warning("%s: %s is %r, which no request may ask for; it does not count.", path, name, value)
    return own


def with_room_for_minimum(body: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return an engine body whose `min_tokens` a default `max_tokens` cannot contradict.

    A client that asks for at least 2000 tokens and sets no limit must not be refused because the default limit is 1000.
    """
    least, limit = body.get("min_tokens") or 0, defaults.get("max_tokens")
    is_limited = body.get("max_tokens") is not None or body.get("max_completion_tokens") is not None
    return body if is_limited or limit is None or least <= limit else body | {"max_tokens": least}
