"""Sentence encoders converted for OpenVINO: int8 where that keeps the vectors, else float32.

The exported folder is complete by itself: the graph, the tokenizer and the settings. Calibration and check run on the texts of
`configs/embedding_calibration.txt`. NNCF quantises: static ranges, so that a text gets the same vector in any company, and
SmoothQuant (Xiao et al. 2023) for the few channels that are much larger than the rest.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.errors import ConfigurationError
from aihub.core.progress import Progress
from aihub.embeddings.sentence_model import read_sentence_model

Batch = tuple[NDArray[np.int64], NDArray[np.int64]]
Vectors = NDArray[np.float32]

GRAPH_NAME = "model.xml"
FACTS_NAME = "encoder.json"
CALIBRATION_PATH = Path(__file__).resolve().parents[2] / "configs" / "embedding_calibration.txt"
MIN_COSINE = 0.99
MIN_EXACT_COSINE = 0.9999
PROBE_BYTES = 2**20
COPIED_SUFFIXES = (".json", ".txt", ".model")
RECIPE = 3


def export_encoder(source: Path, target: Path, progress: Progress) -> None:
    """Write the encoder in `source` to the empty folder `target`.

    Int8 is taken when its vectors have a mean cosine of at least `MIN_COSINE` to torch's; `encoder.json` says which it is
    and the cosine. Takes half a minute and four times the size of the weights in memory.

    Raises:
        ConfigurationError: The converted model gives other vectors than torch does.
        OSError: The disk is full.
    """
    import nncf

    step = f"Exporting {target.name.strip('.').removesuffix('.partial')}"
    progress(step, 0.0)
    batches = list(_calibration_batches(source, read_sentence_model(source).max_tokens))
    exact, expected = _convert(source, batches)
    progress(step, 0.4)
    samples = nncf.Dataset(batches, lambda batch: dict(enumerate(batch)))
    int8 = nncf.quantize(exact, samples, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(batches))
    progress(step, 0.8)
    cosine = _write(int8, target, batches, expected)
    is_int8 = cosine >= MIN_COSINE
    if not is_int8 and _write(exact, target, batches, expected) < MIN_EXACT_COSINE:
        raise ConfigurationError(f"{source} gives other vectors on OpenVINO than on torch. Set backend: torch in the profile.")
    _copy_settings(source, target)
    facts = {"precision": "int8" if is_int8 else "float32", "int8_cosine": round(cosine, 5)}
    (target / FACTS_NAME).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    progress(step, 1.0)


def compile_encoder(graph: Any, streams: int) -> Any:
    """Return a model that takes `streams` calls at once on the CPU, a thread for each, from a graph or its file."""
    import openvino

    options = {
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    return openvino.Core().compile_model(graph, "CPU", options)


def folder_fingerprint(folder: Path) -> str:
    """Return a short digest of the names, sizes and times of a model's files; equal means not touched since."""
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((str(folder), facts)).encode()).hexdigest()[:16]


def _convert(folder: Path, batches: Sequence[Batch]) -> tuple[Any, Vectors]:
    """Return the model's graph (token ids and mask of any size in, vectors of norm 1 out), and torch's vectors."""
    import openvino
    import torch
    from sentence_transformers import SentenceTransformer

    settings = {"use_safetensors": True, "attn_implementation": "eager"}
    model: Any = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=settings).float()

    class Encoder(torch.nn.Module):  # type: ignore[misc]  # torch is not typed here
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            vectors = self.model({"input_ids": input_ids, "attention_mask": attention_mask})["sentence_embedding"]
            return torch.nn.functional.normalize(vectors, dim=1)

    encoder = Encoder().eval()
    example = torch.ones(2, 8, dtype=torch.long)
    with torch.inference_mode(), warnings.catch_warnings():
        expected = torch.cat([encoder(*map(torch.from_numpy, batch)) for batch in batches]).numpy()
        # OpenVINO traces with what torch calls deprecated; a graph of torch's new exporter gives wrong vectors for BERT.
        warnings.simplefilter("ignore")
        graph = openvino.convert_model(encoder, example_input=(example, example))
    graph.reshape({place: [-1, -1] for place in range(2)})
    return graph, expected


def _write(graph: Any, target: Path, batches: Sequence[Batch], expected: Vectors) -> float:
    """Save a graph and return the mean cosine of its vectors, computed with what lies on the disk, to the expected ones."""
    import openvino

    path = target / GRAPH_NAME
    try:
        openvino.save_model(graph, path, compress_to_fp16=False)
        compiled = compile_encoder(path, 1)
    except RuntimeError as error:
        _try_to_write(path)  # raises what OpenVINO does not tell
        raise ConfigurationError(f"OpenVINO cannot write or read {path}: {error}") from error
    found = np.concatenate([compiled(list(batch))[0] for batch in batches])
    return float((found * expected).sum(axis=1).mean())


def _try_to_write(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())


def _calibration_batches(folder: Path, max_tokens: int) -> Iterator[Batch]:
    """Yield token ids and mask, one text per batch so that no padding enters the ranges."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    for line in CALIBRATION_PATH.read_text(encoding="utf-8").splitlines():
        if line.strip():
            ids = np.array([tokenizer.encode(line).ids], np.int64)
            yield ids, np.ones_like(ids)


def _copy_settings(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in COPIED_SUFFIXES and not path.name.endswith(".index.json"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
