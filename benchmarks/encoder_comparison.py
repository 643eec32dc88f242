"""The hub's encoder beside sentence-transformers' `backend="onnx"` and `"openvino"` with their int8 files, in one run.

Texts per second in interleaved rounds, and nDCG@10 of plain dot products on scifact. Their exporters need other versions of
transformers than vLLM does, so they run in an environment of their own: `make encoder-peers` makes it.
"""

import argparse
import asyncio
import json
import math
import statistics
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.models.store.default_models import prepare_embedding_model, select_embedding_model
from benchmarks.embeddings_speed import Embed, Load, in_process, make_loads
from benchmarks.retrieval_quality import DATA, ndcg, read_judgements, read_lines

Vectors = NDArray[np.float32]

PEERS = ("onnx", "openvino")
MOST_TOKENS = 240
AIM = "1.0 with equal nDCG"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    settings = Settings()
    work = settings.home_path / "bench" / "encoders"
    python = work / "venv" / "bin" / "python"
    if not python.is_file():
        print(f"sentence-transformers' own runtimes are not compared: {python} is missing. Run make encoder-peers first.")
        return
    choice = select_embedding_model(settings, load_profile(settings.profile))
    folder = prepare_embedding_model(choice.source, settings)
    loads = make_loads(folder)
    _write_calibration(work / "calibration", [text for load in loads for text in load.texts])
    with asyncio.Runner() as runner:
        embedder = SentenceEmbedder(prepare_embedding_model(choice.source, settings, backend="openvino"), choice.model_id)
        runner.run(embedder.start())
        for peer in PEERS:
            with running_peer(python, peer, folder, work) as other:
                compare_speed(runner, embedder, loads, peer, other, options.rounds)
                compare_quality(runner, embedder, folder, peer, other)
        runner.run(embedder.close())


def compare_speed(
    runner: asyncio.Runner, embedder: SentenceEmbedder, loads: Sequence[Load], peer: str, other: "Peer", rounds: int
) -> None:
    """Print a row for each length of texts."""
    for load in loads:
        ours = in_process(runner, embedder, load)
        pairs = [(_rate(ours, load.texts), len(load.texts) / other.encode(load.texts)[1]) for _ in range(rounds + 1)][1:]
        hub, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
        title = f"hub's encoder vs sentence-transformers {peer}, {load.name}"
        print(f"{title:<66} {hub:>9.1f} {theirs:>9.1f} {'text/s':<6} {hub / theirs:>6.2f}  {AIM}", flush=True)


def compare_quality(runner: asyncio.Runner, embedder: SentenceEmbedder, model: Path, peer: str, other: "Peer") -> None:
    """Print nDCG@10 on scifact, title and text of a document in one text, cut to what the model reads."""
    folder = DATA / "scifact"
    judged = read_judgements(folder / "qrels" / "test.tsv")
    documents = {line["_id"]: f"{line['title']} {line['text']}" for line in read_lines(folder / "corpus.jsonl.gz")}
    questions = {line["_id"]: line["text"] for line in read_lines(folder / "queries.jsonl.gz") if line["_id"] in judged}
    everything = _cut([*documents.values(), *questions.values()], model)
    load = Load("scifact", everything, 64, 4)
    figures = [
        _mean_ndcg(vectors, list(documents), list(questions), judged)
        for vectors in (in_process(runner, embedder, load)(everything), other.encode(everything)[0])
    ]
    print(f"{f'nDCG@10 on scifact, the encoder of the hub vs {peer}':<66} {figures[0]:>9.4f} {figures[1]:>9.4f}", flush=True)


class Peer:
    """A process that encodes with another runtime."""

    def __init__(self, process: "subprocess.Popen[str]", work: Path) -> None:
        self._process = process
        self._texts = work / "texts.json"
        self.answer()

    def encode(self, texts: Sequence[str]) -> tuple[Vectors, float]:
        """Return vectors of norm 1 and the seconds it took to compute them."""
        self._texts.write_text(json.dumps(list(texts)), encoding="utf-8")
        print(self._texts, file=self._process.stdin, flush=True)
        answer = self.answer()
        return np.load(answer["vectors"]), float(answer["seconds"])

    def answer(self) -> dict[str, Any]:
        for line in self._process.stdout or ():
            if line.startswith("{"):  # the libraries print, too
                found: dict[str, Any] = json.loads(line)
                return found
        raise SystemExit("The other runtime ended; what it said stands above.")


@contextmanager
def running_peer(python: Path, runtime: str, model: Path, work: Path) -> Iterator[Peer]:
    script = Path(__file__).with_name("encoder_peer.py")
    command = [str(python), str(script), runtime, str(model), str(work)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Peer(process, work)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _rate(embed: Embed, texts: Sequence[str]) -> float:
    started_s = time.perf_counter()
    embed(texts)
    return len(texts) / (time.perf_counter() - started_s)


def _mean_ndcg(vectors: Vectors, documents: list[str], questions: list[str], judged: dict[str, dict[str, int]]) -> float:
    scores = vectors[len(documents) :] @ vectors[: len(documents)].T
    best = np.argsort(-scores, axis=1)[:, :10]
    ranked = ([documents[place] for place in row] for row in best)
    found = [ndcg(names, judged[question]) for names, question in zip(ranked, questions, strict=True)]
    return math.fsum(found) / len(found)


def _cut(texts: Sequence[str], model: Path) -> list[str]:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    offsets = (encoding.offsets for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False))
    return [text[: places[min(len(places), MOST_TOKENS) - 1][1]] for text, places in zip(texts, offsets, strict=True)]


def _write_calibration(folder: Path, texts: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "train.jsonl").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    main()
