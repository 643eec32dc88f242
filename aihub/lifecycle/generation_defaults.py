"""Generation defaults of each local model, kept in the state folder so that they outlive the model's time in memory."""

import json
import logging
import threading
from pathlib import Path
from typing import Any

from aihub.registry.documents import write_document

logger = logging.getLogger(__name__)


class GenerationDefaultsStore:
    """One JSON file: values by model id. Blocking; safe for threads of one process.

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
        """Set values, take back those that are None, and return what is in force."""
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
            logger.warning("%s is not readable (%s); models have their own generation defaults.", self._path, error)
            return {}
        if not isinstance(document, dict):
            return {}
        return {name: values for name, values in document.items() if isinstance(values, dict)}
