"""Text to vectors with a local sentence encoder, batched across requests."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

from aihub.core.errors import ModelUnavailableError
from aihub.core.health import PartHealth
from aihub.embeddings.encoders import TextTokenizer, load_encoder
from aihub.embeddings.queue import EncodingQueue
from aihub.embeddings.sentence_model import read_sentence_model
from aihub.embeddings.service import EmbedderInfo, Embeddings


class SentenceEmbedder:
    """An `Embedder` over a folder from `prepare_embedding_model`.

    The event loop is never blocked: texts become tokens in a worker thread, and vectors in the compute threads of one
    `EncodingQueue`. A text gets the same vector in any company, to rounding (cosine above .999).

    Args:
        model_path: Prepared folder; what it holds decides the runtime.
        model_id: The name clients send.
        device: `cpu` or `cuda`.
        languages: ISO 639-1 codes the model was trained for.
        max_batch_tokens: Padded tokens of one forward pass. Small batches stay in the cache of a CPU (512 is best there);
            a GPU wants tens of thousands.
    """

    def __init__(
        self,
        model_path: str | Path,
        model_id: str,
        *,
        device: str = "cpu",
        languages: tuple[str, ...] = ("en",),
        max_batch_tokens: int = 512,
    ) -> None:
        self._path = Path(model_path)
        self._model_id = model_id
        self._device = device
        self._languages = languages
        self._max_batch_tokens = max_batch_tokens
        self._model_info: EmbedderInfo | None = None
        self._tokenizer: TextTokenizer | None = None
        self._queue: EncodingQueue | None = None

    async def start(self) -> None:
        """Load the model (seconds) and begin to work.

        Raises:
            ConfigurationError: The folder is not a prepared model.
        """
        await asyncio.to_thread(self._load)

    async def close(self) -> None:
        """Stop; requests in hand fail with `ModelUnavailableError`."""
        if self._queue is not None:
            await asyncio.to_thread(self._queue.close)

    async def model_info(self) -> EmbedderInfo:
        if self._model_info is None:
            raise ModelUnavailableError("The embeddings model is loading. Retry in a few seconds.")
        return self._model_info

    async def health(self) -> PartHealth:
        problem = "the model is loading" if self._queue is None else self._queue.problem()
        return PartHealth("ok") if problem is None else PartHealth("down", problem)

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Return one vector of norm 1 per input, in order.

        Raises:
            InvalidRequestError: An input is empty, too long or holds a foreign token id; the message names it.
            OverloadedError: Too much is waiting.
            ModelUnavailableError: The model is loading or stopping.
        """
        if self._tokenizer is None or self._queue is None:
            raise ModelUnavailableError("The embeddings model is loading. Retry in a few seconds.")
        rows = await asyncio.to_thread(self._tokenizer.encode, inputs)
        vectors = await self._queue.encode(rows)
        return Embeddings(vectors, [len(row) for row in rows])

    def _load(self) -> None:
        model = read_sentence_model(self._path)
        encoder = load_encoder(self._path, self._device)
        tokenizer_path = self._path / "tokenizer.json"
        self._tokenizer = TextTokenizer(tokenizer_path, max_tokens=model.max_tokens, vocabulary_size=model.vocabulary_size)
        # The first call also measures the width: modules after the encoder may change it.
        probe = self._tokenizer.encode(["a"])[0][None, :]
        dimensions = int(encoder(probe, probe * 0 + 1).shape[1])
        self._model_info = EmbedderInfo(
            model_id=self._model_id,
            dimensions=dimensions,
            max_tokens=model.max_tokens,
            vocabulary_size=model.vocabulary_size,
            languages=self._languages,
            tokenizer_path=str(tokenizer_path),
            created=int(time.time()),
        )
        self._queue = EncodingQueue(encoder, dimensions=dimensions, max_batch_tokens=self._max_batch_tokens)
