"""An embedder without a model, for tests and for trying pipelines: texts that share words get similar vectors."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aihub.core.errors import InvalidRequestError
from aihub.core.health import PartHealth
from aihub.embeddings.schemas import check_inputs
from aihub.embeddings.service import EmbedderInfo, Embeddings


@dataclass
class FakeEmbedder:
    """A bag of hashed words per text, L2-normalised; deterministic across processes.

    A token is a word; token ids count as words too.
    """

    model_id: str = "fake-embedder"
    dimensions: int = 384
    max_tokens: int = 256
    languages: tuple[str, ...] = ("en", "vi")
    tokenizer_path: str = ""
    vocabulary_size: int = 30_000

    async def model_info(self) -> EmbedderInfo:
        return EmbedderInfo(
            model_id=self.model_id,
            dimensions=self.dimensions,
            max_tokens=self.max_tokens,
            vocabulary_size=self.vocabulary_size,
            languages=self.languages,
            tokenizer_path=self.tokenizer_path,
            created=int(time.time()),
        )

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        check_inputs(inputs, self.vocabulary_size)
        words = [item.lower().split() if isinstance(item, str) else [str(token) for token in item] for item in inputs]
        # Two more for the special tokens a real model adds.
        counts = [len(item) + 2 for item in words]
        for index, count in enumerate(counts):
            if count > self.max_tokens:
                raise InvalidRequestError(
                    f"Input {index} has {count} tokens; {self.model_id} takes at most {self.max_tokens}. Split it.",
                    param="input",
                    code="context_length_exceeded",
                )
        vectors = np.zeros((len(words), self.dimensions), dtype=np.float32)
        for row, item in zip(vectors, words, strict=True):
            for word in item:
                digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                row[int.from_bytes(digest[:4], "little") % self.dimensions] += 1.0 if digest[4] & 1 else -1.0
            if not row.any():
                row[0] = 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, counts)

    async def health(self) -> PartHealth:
        return PartHealth("ok")
