"""An embedder that remembers vectors on disk, so that a second run of a benchmark need not wait for the model."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aihub.core.health import PartHealth
from aihub.embeddings.service import Embedder, EmbedderInfo, Embeddings


class CachedEmbedder:
    """Gives what `inner` gives, each text embedded once per model folder.

    Args:
        inner: The real embedder.
        model_folder: Its files name the cache: another model, or another export of it, starts anew.
        cache_folder: Where the vectors lie.
    """

    def __init__(self, inner: Embedder, model_folder: Path, cache_folder: Path) -> None:
        self._inner = inner
        self._path = cache_folder / f"vectors-{_fingerprint(model_folder)}.npz"
        self._known: dict[bytes, tuple[NDArray[np.float32], int]] = {}
        self.reused = 0
        self.embedded = 0
        if self._path.exists():
            with np.load(self._path) as saved:
                keys = [key.tobytes() for key in saved["keys"]]
                self._known = dict(zip(keys, zip(saved["vectors"], saved["tokens"].tolist(), strict=True), strict=True))

    async def model_info(self) -> EmbedderInfo:
        return await self._inner.model_info()

    async def health(self) -> PartHealth:
        return await self._inner.health()

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        keys = [hashlib.blake2b(repr(item).encode(), digest_size=16).digest() for item in inputs]
        missing = [n for n, key in enumerate(keys) if key not in self._known]
        if missing:
            fresh = await self._inner.embed([inputs[n] for n in missing])  # type: ignore[arg-type]  # all of one kind
            for n, vector, tokens in zip(missing, fresh.vectors, fresh.token_counts, strict=True):
                self._known[keys[n]] = (vector, tokens)
        self.embedded += len(missing)
        self.reused += len(keys) - len(missing)
        found = [self._known[key] for key in keys]
        return Embeddings(np.stack([vector for vector, _ in found]), [tokens for _, tokens in found])

    def save(self) -> None:
        """Write all vectors to disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial.npz")
        np.savez(
            partial,
            keys=np.array([np.frombuffer(key, dtype=np.uint8) for key in self._known]),
            vectors=np.stack([vector for vector, _ in self._known.values()]),
            tokens=np.array([tokens for _, tokens in self._known.values()]),
        )
        os.replace(partial, self._path)


def _fingerprint(folder: Path) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(hashlib.blake2b(path.read_bytes()).digest())
    return digest.hexdigest()
