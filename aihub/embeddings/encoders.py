"""Sentence encoders: text to padded token ids, token ids to unit vectors."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aihub.core.errors import ContextLengthError, InvalidRequestError
from aihub.embeddings.openvino_export import GRAPH_NAME, compile_encoder
from aihub.embeddings.schemas import check_inputs
from aihub.embeddings.sentence_model import read_sentence_model

Tokens = NDArray[np.int64]
Vectors = NDArray[np.float32]


class Encoder(Protocol):
    """A loaded model.

    Attributes:
        parallel_calls: Threads that should call it at the same time to use the whole machine.
    """

    parallel_calls: int

    def __call__(self, token_ids: Tokens, mask: Tokens) -> Vectors:
        """Encode arrays of shape (texts, tokens); `mask` is 1 where a token is and 0 where padding is."""
        ...


def load_encoder(folder: Path, device: str) -> Encoder:
    """Load a prepared folder on the runtime it was prepared for."""
    return OpenVinoEncoder(folder) if (folder / GRAPH_NAME).is_file() else TorchEncoder(folder, device)


TOKENS_STEP, LONG_TOKENS_STEP, LONG_TOKENS = 8, 16, 64
TEXTS_STEP = 4
"""Batches are filled up to multiples of these: OpenVINO compiles kernels for each shape it meets, which takes time and memory."""


class OpenVinoEncoder:
    """OpenVINO on the CPU.

    One thread per call and one call per core: batches are independent, so no core waits for another inside a layer.
    """

    def __init__(self, folder: Path) -> None:
        self.parallel_calls = available_cores()
        self._model = compile_encoder(folder / GRAPH_NAME, self.parallel_calls)
        self._max_tokens = read_sentence_model(folder).max_tokens
        self._thread = threading.local()

    def __call__(self, token_ids: Tokens, mask: Tokens) -> Vectors:
        if not hasattr(self._thread, "request"):
            self._thread.request = self._model.create_infer_request()
        texts, tokens = token_ids.shape
        rows = texts if texts < TEXTS_STEP else round_up(texts, TEXTS_STEP)
        width = max(tokens, min(round_up(tokens, LONG_TOKENS_STEP if tokens > LONG_TOKENS else TOKENS_STEP), self._max_tokens))
        filled = []
        for values in (token_ids, mask):
            wide = np.pad(values, ((0, 0), (0, width - tokens)))
            filled.append(np.pad(wide, ((0, rows - texts), (0, 0)), mode="edge"))
        # A copy, as the request's own memory is written again by its next call.
        vectors: Vectors = self._thread.request.infer(filled)[0][:texts].copy()
        return vectors


class TorchEncoder:
    """sentence-transformers, float32, on `cpu` or `cuda`."""

    parallel_calls = 1

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        if device == "cpu":
            # Ray sets OMP_NUM_THREADS to the CPUs a replica reserves, which is 0 or 1 here.
            torch.set_num_threads(available_cores())
        self._torch = torch
        self._device = device
        self._model: Any = SentenceTransformer(
            str(folder), device=device, local_files_only=True, model_kwargs={"use_safetensors": True}
        ).eval()

    def __call__(self, token_ids: Tokens, mask: Tokens) -> Vectors:
        torch = self._torch
        features = {
            "input_ids": torch.from_numpy(token_ids).to(self._device),
            "attention_mask": torch.from_numpy(mask).to(self._device),
        }
        with torch.inference_mode():
            pooled = self._model(features)["sentence_embedding"].float()
            vectors: Vectors = torch.nn.functional.normalize(pooled, dim=1).cpu().numpy()
        return vectors


def round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def available_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0))


TokenIds = NDArray[np.int64]

CHARACTERS_PER_TOKEN = 64
"""A text with more characters than this per token of the limit is refused unread; real text has 1 to 8."""


class TextTokenizer:
    """A `tokenizer.json` with the limits of its model. Thread-safe."""

    def __init__(self, path: Path, *, max_tokens: int, vocabulary_size: int) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_tokens = max_tokens
        self._vocabulary_size = vocabulary_size
        self._before, self._after = self._special_tokens()

    def encode(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> list[TokenIds]:
        """Return the ids of each input, special tokens included.

        Raises:
            InvalidRequestError: An input is empty, blank, no text, or holds a foreign token id; the message names it.
            ContextLengthError: An input is too long; the message has its length and the limit.
        """
        check_inputs(inputs, self._vocabulary_size)
        texts = [item for item in inputs if isinstance(item, str)]
        if not texts:
            rows = [np.array([*self._before, *ids, *self._after], np.int64) for ids in inputs]
        else:
            self._refuse_huge(texts)
            rows = [np.array(encoding.ids, np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]
        for index, row in enumerate(rows):
            self._check_length(index, len(row))
        return rows

    def _check_length(self, index: int, length: int) -> None:
        if length > self._max_tokens:
            raise ContextLengthError(
                f"Input {index} has {length} tokens, special tokens included; this model reads at most {self._max_tokens}. "
                "Split it into shorter pieces.",
                param="input",
            )
        if length <= len(self._before) + len(self._after):
            raise InvalidRequestError(f"Input {index} holds no character that the model knows. Leave it out.", param="input")

    def _refuse_huge(self, texts: list[str]) -> None:
        limit = self._max_tokens * CHARACTERS_PER_TOKEN
        for index, text in enumerate(texts):
            if len(text) > limit:
                raise ContextLengthError(
                    f"Input {index} has {len(text)} characters; this model reads at most {self._max_tokens} tokens "
                    f"(and {limit} characters). Split it into shorter pieces.",
                    param="input",
                )

    def _special_tokens(self) -> tuple[list[int], list[int]]:
        """Return the ids put before and after a text, from a probe."""
        bare: list[int] = self._tokenizer.encode("a", add_special_tokens=False).ids
        full: list[int] = self._tokenizer.encode("a", add_special_tokens=True).ids
        start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
        return full[:start], full[start + len(bare) :]
