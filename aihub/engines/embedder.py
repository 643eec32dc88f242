"""Text to vectors with a sentence-transformers model, batched across requests."""

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.engines.base import EmbedderCard, Embeddings, PartHealth
from aihub.engines.embedding_inputs import check_inputs
from aihub.errors import InvalidRequestError, ModelUnavailableError

logger = logging.getLogger(__name__)

ITEMS_PER_ROUND = 256


@dataclass(slots=True)
class _Job:
    """One request in the batcher: its token ids, and the vectors computed so far."""

    token_ids: list[list[int]]
    vectors: NDArray[np.float32]
    done: asyncio.Future[None]
    taken: int = 0
    written: int = field(default=0)


class SentenceEmbedder:
    """An `Embedder` over a local sentence-transformers folder.

    One worker thread computes. Each round takes a share of every waiting request, sorts the texts by length and packs
    them into batches of at most `max_batch_tokens` padded tokens, so that short requests never wait behind a long one and
    little is spent on padding.

    Args:
        model_path: Verified folder (safetensors).
        model_id: The name clients send.
        device: `cpu` or `cuda`.
        languages: ISO 639-1 codes the model was trained for.
        max_batch_tokens: Padded tokens of one forward pass.
        max_batch_size: Texts of one forward pass.
        batch_wait_timeout_s: How long a round waits for more requests.
    """

    def __init__(
        self,
        model_path: str,
        model_id: str,
        *,
        device: str = "cpu",
        languages: tuple[str, ...] = ("en",),
        max_batch_tokens: int = 16384,
        max_batch_size: int = 64,
        batch_wait_timeout_s: float = 0.002,
    ) -> None:
        self._path = Path(model_path)
        self._model_id = model_id
        self._device = device
        self._languages = languages
        self._max_batch_tokens = max_batch_tokens
        self._max_batch_size = max_batch_size
        self._wait_s = batch_wait_timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="aihub-embedder")
        self._jobs: list[_Job] = []
        self._wake = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._model: Any = None
        self._special_tokens: tuple[list[int], list[int]] = ([], [])
        self._card: EmbedderCard | None = None

    async def start(self) -> None:
        """Load the model (a few seconds) and begin to work."""
        self._card = await asyncio.get_running_loop().run_in_executor(self._thread, self._load)
        self._worker = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop; requests in hand fail with `ModelUnavailableError`."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for job in self._jobs:
            if not job.done.done():
                job.done.set_exception(ModelUnavailableError("The embeddings model is stopping. Retry in a few seconds."))
        self._jobs.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def card(self) -> EmbedderCard:
        return self._loaded_card()

    async def health(self) -> PartHealth:
        if self._card is None:
            return PartHealth("down", "the model is loading")
        if self._worker is None or self._worker.done():
            return PartHealth("down", "the batcher has ended")
        return PartHealth("ok")

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Return one vector of norm 1 per input, in order.

        Raises:
            InvalidRequestError: An input is empty, too long or holds a foreign token id; the message names it.
        """
        card = self._loaded_card()
        check_inputs(inputs, card.vocabulary_size)
        token_ids = await asyncio.to_thread(self._tokenize, inputs)
        for index, ids in enumerate(token_ids):
            if len(ids) > card.max_tokens:
                raise InvalidRequestError(
                    f"Input {index} has {len(ids)} tokens; {card.model_id} takes at most {card.max_tokens}. Split it.",
                    param="input",
                    code="context_length_exceeded",
                )
        job = _Job(
            token_ids=token_ids,
            vectors=np.empty((len(token_ids), card.dimensions), dtype=np.float32),
            done=asyncio.get_running_loop().create_future(),
        )
        self._jobs.append(job)
        self._wake.set()
        try:
            await job.done
        finally:
            # A caller who left needs no further rounds.
            if job in self._jobs:
                self._jobs.remove(job)
        return Embeddings(job.vectors, [len(ids) for ids in token_ids])

    def _loaded_card(self) -> EmbedderCard:
        if self._card is None:
            raise ModelUnavailableError("The embeddings model is loading. Retry in a few seconds.")
        return self._card

    def _load(self) -> EmbedderCard:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(
            str(self._path), device=self._device, local_files_only=True, model_kwargs={"use_safetensors": True}
        )
        model.eval()
        self._model = model
        self._special_tokens = _special_tokens(model.tokenizer)
        dimensions = model.get_embedding_dimension()
        return EmbedderCard(
            model_id=self._model_id,
            dimensions=int(dimensions),
            max_tokens=int(model.max_seq_length),
            vocabulary_size=len(model.tokenizer),
            languages=self._languages,
            tokenizer_path=str(self._path / "tokenizer.json"),
            created=int(time.time()),
        )

    def _tokenize(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> list[list[int]]:
        tokenizer = self._model.tokenizer
        if isinstance(inputs[0], str):
            ids: list[list[int]] = tokenizer(list(inputs), add_special_tokens=True, truncation=False, verbose=False)["input_ids"]
            return ids
        before, after = self._special_tokens
        return [[*before, *map(int, ids), *after] for ids in inputs]

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            if self._wait_s:
                await asyncio.sleep(self._wait_s)
            self._wake.clear()
            while self._jobs:
                await self._round()

    async def _round(self) -> None:
        share = max(1, ITEMS_PER_ROUND // len(self._jobs))
        slots = [
            (job, index)
            for job in self._jobs[:ITEMS_PER_ROUND]
            for index in range(job.taken, min(job.taken + share, len(job.token_ids)))
        ]
        for job, index in slots:
            job.taken = index + 1
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._encode, [job.token_ids[index] for job, index in slots]
            )
        except RuntimeError as error:
            # What torch raises, out of memory included: the requests of this round fail, the next ones work.
            logger.exception("A round of %d texts failed", len(slots))
            for job in {id(job): job for job, _ in slots}.values():
                self._finish(job, error)
            return
        for (job, index), vector in zip(slots, vectors, strict=True):
            job.vectors[index] = vector
            job.written += 1
            if job.written == len(job.token_ids):
                self._finish(job, None)

    def _finish(self, job: _Job, error: Exception | None) -> None:
        if job in self._jobs:
            self._jobs.remove(job)
        if job.done.done():
            return
        if error is None:
            job.done.set_result(None)
        else:
            job.done.set_exception(ModelUnavailableError("The embeddings model failed on this batch. Retry with fewer inputs."))

    def _encode(self, token_ids: list[list[int]]) -> NDArray[np.float32]:
        vectors = np.empty((len(token_ids), self._loaded_card().dimensions), dtype=np.float32)
        order = sorted(range(len(token_ids)), key=lambda index: -len(token_ids[index]))
        start = 0
        while start < len(order):
            longest = len(token_ids[order[start]])
            size = min(self._max_batch_size, max(1, self._max_batch_tokens // longest))
            batch = order[start : start + size]
            vectors[batch] = self._forward([token_ids[index] for index in batch])
            start += size
        return vectors

    def _forward(self, batch: list[list[int]]) -> NDArray[np.float32]:
        import torch

        padded = self._model.tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            pooled = self._model(dict(padded))["sentence_embedding"].float()
            vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids a tokenizer puts before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a", add_special_tokens=True)["input_ids"]
    start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]
