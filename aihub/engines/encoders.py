"""The runtimes of a sentence encoder: padded token ids in, unit vectors out."""

import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from aihub.registry.onnx_encoder import ONNX_NAME

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
    return OnnxEncoder(folder) if (folder / ONNX_NAME).is_file() else TorchEncoder(folder, device)


class OnnxEncoder:
    """ONNX Runtime on the CPU.

    One thread per call and one call per core: batches are independent, so no core waits for another inside a layer, and
    a waiting thread does not spin on a core that the LLM needs.
    """

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession, SessionOptions

        options = SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = InferenceSession(str(folder / ONNX_NAME), options, providers=["CPUExecutionProvider"])
        self.parallel_calls = available_cores()

    def __call__(self, token_ids: Tokens, mask: Tokens) -> Vectors:
        vectors: Vectors = self._session.run(None, {"input_ids": token_ids, "attention_mask": mask})[0]
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


def available_cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0))
