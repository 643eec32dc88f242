"""Texts embedded per second against sentence-transformers called directly, in interleaved rounds of the same run.

`python -m benchmarks.embeddings_speed` measures the engine in this process on both runtimes; `--url` measures a running
hub over HTTP. The peer is `SentenceTransformer.encode` with its default batch size, float32, on all cores.
"""

import argparse
import asyncio
import base64
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from aihub.core.hub_requests import hub_headers
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.embeddings.embedder import SentenceEmbedder
from aihub.embeddings.openvino_export import CALIBRATION_PATH
from aihub.models.store.default_models import prepare_embedding_model, select_embedding_model

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[str]], Vectors]

CLIENTS = 4
TEXTS_PER_REQUEST = 64
SINGLE_CLIENTS = 16


@dataclass(frozen=True, slots=True)
class Load:
    """Texts of about one length, and how many travel in one request."""

    name: str
    texts: list[str]
    per_request: int
    clients: int


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a running hub; the engine is measured in this process otherwise")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    settings = Settings()
    choice = select_embedding_model(settings, load_profile(settings.profile))
    folder = prepare_embedding_model(choice.source, settings)
    peer = load_peer(folder)
    loads = make_loads(folder)
    if options.url:
        for load in loads:
            compare(f"HTTP, {load.name}", load, over_http(options.url, choice.model_id, load), peer, options.rounds)
        return
    with asyncio.Runner() as runner:
        for backend in ("torch", "openvino"):
            embedder = SentenceEmbedder(prepare_embedding_model(choice.source, settings, backend=backend), choice.model_id)
            runner.run(embedder.start())
            for load in loads:
                compare(f"engine on {backend}, {load.name}", load, in_process(runner, embedder, load), peer, options.rounds)
            runner.run(embedder.close())


def compare(what: str, load: Load, hub: Embed, peer: Embed, rounds: int) -> None:
    """Print one row: medians of alternating rounds after a warm-up, and how close the vectors are."""
    cosine = float((hub(load.texts) * peer(load.texts)).sum(axis=1).min())
    pairs = [(_rate(hub, load.texts), _rate(peer, load.texts)) for _ in range(rounds)]
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    row = f"{what:<44} {ours:>9.1f} {theirs:>9.1f} {'text/s':<6} {ours / theirs:>6.2f}"
    print(f"{row}  0.9 torch, 2.5 fastest; cosine >= {cosine:.3f}", flush=True)


def _rate(embed: Embed, texts: Sequence[str]) -> float:
    started_s = time.perf_counter()
    embed(texts)
    return len(texts) / (time.perf_counter() - started_s)


def load_peer(folder: Path) -> Embed:
    """Return sentence-transformers' own way from texts to vectors."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def embed(texts: Sequence[str]) -> Vectors:
        vectors: Vectors = model.encode(list(texts), normalize_embeddings=True)
        return vectors

    return embed


def in_process(runner: asyncio.Runner, embedder: SentenceEmbedder, load: Load) -> Embed:
    """Return the engine under concurrent callers."""

    async def embed(texts: Sequence[str]) -> Vectors:
        limit = asyncio.Semaphore(load.clients)

        async def ask(part: Sequence[str]) -> Vectors:
            async with limit:
                return (await embedder.embed(part)).vectors

        return np.concatenate(await asyncio.gather(*map(ask, _requests(texts, load.per_request))))

    return lambda texts: runner.run(embed(texts))


def over_http(url: str, model: str, load: Load) -> Embed:
    """Return a hub's `/v1/embeddings` under concurrent clients; base64, as the openai package asks for."""

    async def embed(texts: Sequence[str]) -> Vectors:
        connector = aiohttp.TCPConnector(limit=load.clients)
        async with aiohttp.ClientSession(headers=hub_headers(), connector=connector, raise_for_status=True) as session:

            async def ask(part: Sequence[str]) -> Vectors:
                body = {"model": model, "input": list(part), "encoding_format": "base64"}
                async with session.post(f"{url}/v1/embeddings", json=body) as response:
                    data = (await response.json())["data"]
                return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in data])

            return np.concatenate(await asyncio.gather(*map(ask, _requests(texts, load.per_request))))

    return lambda texts: asyncio.run(embed(texts))


def _requests(texts: Sequence[str], size: int) -> list[Sequence[str]]:
    return [texts[start : start + size] for start in range(0, len(texts), size)]


def make_loads(folder: Path) -> list[Load]:
    """Texts of random words from the calibration file, cut to a number of the model's tokens."""
    words = CALIBRATION_PATH.read_text(encoding="utf-8").split()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    choose = random.Random(7)  # noqa: S311  # a fixed load, not a secret

    def texts(count: int, low: int, high: int) -> list[str]:
        made = []
        for _ in range(count):
            text = " ".join(choose.choices(words, k=high))
            end = tokenizer.encode(text, add_special_tokens=False).offsets[choose.randint(low, high) - 1][1]
            made.append(text[:end])
        return made

    short, long = texts(1024, 12, 16), texts(96, 200, 236)
    return [
        Load(f"~16 tokens, {TEXTS_PER_REQUEST} a request", short, TEXTS_PER_REQUEST, CLIENTS),
        Load(f"~220 tokens, {TEXTS_PER_REQUEST // 4} a request", long, TEXTS_PER_REQUEST // 4, CLIENTS),
        Load(f"~16 tokens, 1 a request, {SINGLE_CLIENTS} clients", short[:512], 1, SINGLE_CLIENTS),
    ]


if __name__ == "__main__":
    main()
