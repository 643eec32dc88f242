"""Sentence encoders exported for ONNX Runtime: int8 where that keeps the vectors, else float32.

The exported folder is complete by itself: `model.onnx`, the tokenizer and the settings. Calibration and check run on the
texts of `configs/embedding_calibration.txt`.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aihub.core.progress import Progress
from aihub.embeddings.bert_graph import BertShape, build_bert_graph, input_names
from aihub.embeddings.quantization import InputRange
from aihub.embeddings.sentence_model import SentenceModel, first_position, read_sentence_model

Array = NDArray[np.float32]

ONNX_NAME = "model.onnx"
FACTS_NAME = "encoder.json"
CALIBRATION_PATH = Path(__file__).resolve().parents[2] / "configs" / "embedding_calibration.txt"
MIN_COSINE = 0.99
COPIED_SUFFIXES = (".json", ".txt", ".model")
RECIPE = 2


def export_encoder(source: Path, target: Path, progress: Progress) -> None:
    """Write the encoder in `source` to the empty folder `target`.

    Int8 is taken when its vectors have a mean cosine of at least `MIN_COSINE` to the float32 ones; `encoder.json` says
    which it is and the cosine. Takes a few seconds and three times the size of the weights in memory.
    """
    model = read_sentence_model(source)
    shape = _shape(model)
    step = f"Exporting {target.name.strip('.').removesuffix('.partial')}"
    progress(step, 0.0)
    weights = _read_weights(source)
    batches = list(_calibration_batches(source, model))
    exact = build_bert_graph(shape, weights, expose_inputs=True)
    progress(step, 0.2)
    expected, ranges = _measure(exact, shape, batches)
    progress(step, 0.6)
    int8 = build_bert_graph(shape, weights, ranges)
    cosine = float((expected * _run(int8, batches)).sum(axis=1).mean())
    is_int8 = cosine >= MIN_COSINE
    progress(step, 0.8)
    chosen = int8 if is_int8 else build_bert_graph(shape, weights)
    (target / ONNX_NAME).write_bytes(chosen.SerializeToString())
    _copy_settings(source, target)
    facts = {"precision": "int8" if is_int8 else "float32", "int8_cosine": round(cosine, 5)}
    (target / FACTS_NAME).write_text(json.dumps(facts) + "\n", encoding="utf-8")
    progress(step, 1.0)


def folder_fingerprint(folder: Path) -> str:
    """Return a short digest of the names, sizes and times of a model's files; equal means not touched since."""
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((str(folder), facts)).encode()).hexdigest()[:16]


def _shape(model: SentenceModel) -> BertShape:
    config = model.config
    return BertShape(
        layers=int(config["num_hidden_layers"]),
        heads=int(config["num_attention_heads"]),
        width=int(config["hidden_size"]),
        epsilon=float(config["layer_norm_eps"]),
        first_position=first_position(config),
        pooling=model.pooling or "mean",
    )


def _read_weights(folder: Path) -> dict[str, Array]:
    from safetensors import safe_open

    weights: dict[str, Array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        # Through torch, as NumPy has no bfloat16.
        with safe_open(path, framework="pt") as file:
            for name in file.keys():
                bare = name[name.find("embeddings.") :] if "embeddings." in name else name[name.find("encoder.layer.") :]
                weights[bare] = file.get_tensor(name).float().numpy()
    return weights


def _calibration_batches(folder: Path, model: SentenceModel) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield token ids and mask, one text per batch so that no padding enters the ranges."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_tokens)
    for line in CALIBRATION_PATH.read_text(encoding="utf-8").splitlines():
        if line.strip():
            ids = np.array([tokenizer.encode(line).ids], np.int64)
            yield ids, np.ones_like(ids)


def _measure(
    graph: Any, shape: BertShape, batches: list[tuple[NDArray[np.int64], NDArray[np.int64]]]
) -> tuple[Array, dict[str, InputRange]]:
    """Return the vectors of a graph with exposed inputs, and the range of each of those inputs."""
    session = _session(graph)
    names = input_names(shape.layers)
    vectors: list[Array] = []
    ranges: dict[str, InputRange] = {}
    for ids, mask in batches:
        vector, *values = session.run(None, {"input_ids": ids, "attention_mask": mask})
        vectors.append(vector)
        for name, value in zip(names, values, strict=True):
            rows = value.reshape(-1, value.shape[-1])
            ranges[name] = ranges.get(name, InputRange(rows[0], rows[0])).widened(rows)
    return np.concatenate(vectors), ranges


def _run(graph: Any, batches: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> Array:
    session = _session(graph)
    return np.concatenate([session.run(None, {"input_ids": ids, "attention_mask": mask})[0] for ids, mask in batches])


def _session(graph: Any) -> Any:
    from onnxruntime import InferenceSession

    return InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


def _copy_settings(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix in COPIED_SUFFIXES and not path.name.endswith(".index.json"):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
