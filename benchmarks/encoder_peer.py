"""sentence-transformers' own fast runtimes, run by `benchmarks.encoder_comparison` in an environment of their own.

Reads a folder of texts and writes vectors and seconds; imports nothing of the hub, whose versions of the libraries
sentence-transformers' exporters do not work with.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """`encoder_peer.py RUNTIME MODEL WORK`: answer lines of standard input, each a file of texts, with a file of vectors."""
    runtime, model, work = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    encoder = PEERS[runtime](model, work)
    encoder.encode(["Warm-up."] * 8)
    print(json.dumps({"ready": runtime}), flush=True)
    for line in sys.stdin:
        texts = json.loads(Path(line.strip()).read_text(encoding="utf-8"))
        started_s = time.perf_counter()
        vectors = encoder.encode(texts, normalize_embeddings=True)
        seconds = time.perf_counter() - started_s
        target = work / f"{runtime}.npy"
        np.save(target, vectors)
        print(json.dumps({"seconds": seconds, "vectors": str(target)}), flush=True)


def onnx_int8(model: str, work: Path) -> Any:
    """Dynamic int8, as sentence-transformers exports it for the instructions of this processor."""
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    flags = Path("/proc/cpuinfo").read_text(encoding="ascii")
    target = "avx512_vnni" if "avx512_vnni" in flags else "avx2"
    folder = work / "st-onnx"
    file_name = f"onnx/model_qint8_{target}.onnx" if target != "avx2" else "onnx/model_quint8_avx2.onnx"
    if not (folder / file_name).is_file():
        exported = SentenceTransformer(model, backend="onnx", device="cpu", model_kwargs={"export": True})
        exported.save_pretrained(str(folder))
        export_dynamic_quantized_onnx_model(exported, target, str(folder))
    return SentenceTransformer(str(folder), backend="onnx", device="cpu", model_kwargs={"file_name": file_name})


def openvino_int8(model: str, work: Path) -> Any:
    """Static int8, calibrated on the texts beside the model."""
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import SentenceTransformer, export_static_quantized_openvino_model

    folder = work / "st-openvino"
    file_name = "openvino/openvino_model_qint8_quantized.xml"
    if not (folder / file_name).is_file():
        exported = SentenceTransformer(model, backend="openvino", device="cpu", model_kwargs={"export": True})
        exported.save_pretrained(str(folder))
        export_static_quantized_openvino_model(
            exported,
            OVQuantizationConfig(num_samples=300),
            str(folder),
            dataset_name=str(work / "calibration"),
            dataset_config_name="default",
            dataset_split="train",
            column_name="text",
        )
    return SentenceTransformer(str(folder), backend="openvino", device="cpu", model_kwargs={"file_name": file_name})


PEERS = {"onnx": onnx_int8, "openvino": openvino_int8}

if __name__ == "__main__":
    main()
