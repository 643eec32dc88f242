"""`make bench-speech`: words, speed, memory and live streams beside the bare `vosk` package, and questions asked by voice.

Parts: `words` (word error rate, and whether every word is the bare package's), `speed` (time and memory beside it), `streams`
(how many live streams this machine holds, and how late partial results come), `voice` (time from the end of a spoken question to
the first token of its answer, with and without early retrieval).
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import psutil

from aihub.core.principal import Principal
from aihub.speech.engine import SpeechEngine
from aihub.speech.models import SpeechModel
from aihub.speech.service import LiveOptions, RecognitionOptions
from benchmarks import bare_vosk
from benchmarks.speech_data import Corpus, as_wav, corpora, find_models, running_engine, speech_of

SOMEBODY = Principal()
FILE_S = 50.0
"""Shorter than what is cut into parts, so that both sides hear it in one go."""
LONG_S = 600.0
PIECE_S = 0.1
LIVE_S = 10.0
MEMORY_STREAMS = 4
MOST_LATENCY_S = 0.3
MOST_STREAMS = 256
AIM_TIME = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("words", "speed", "streams", "voice"), nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="a running hub for `voice`; one is started otherwise")
    options = parser.parse_args()
    chosen = options.only or ("words", "speed", "streams", "voice")
    print(f"{os.cpu_count()} cores; load of the machine before: {machine_load()}")
    models = find_models()
    if "words" in chosen:
        asyncio.run(compare_words(models))
    if "speed" in chosen:
        asyncio.run(compare_speed(models, options.rounds))
    if "streams" in chosen:
        asyncio.run(measure_streams(models))
    if "voice" in chosen:
        from benchmarks import voice

        voice.measure(options.url, models, options.rounds)


def machine_load() -> str:
    """Return the processes that wanted a core in the last minute, on average."""
    return f"{os.getloadavg()[0]:.1f}"


async def compare_words(models: Sequence[SpeechModel]) -> None:
    """Print the word error rate of each model on each folder of its language, and how many transcripts are the bare package's."""
    print(f"\n{'word error rate':<44}{'hub':>8}{'bare':>8}  same words")
    async with running_engine() as engine:
        for model in models:
            bare = await asyncio.to_thread(bare_vosk.load, model.folder)
            for corpus in corpora():
                if corpus.language in model.info.languages:
                    await _compare_corpus(engine, model, bare, corpus)


async def _compare_corpus(engine: SpeechEngine, model: SpeechModel, bare: object, corpus: Corpus) -> None:
    options = RecognitionOptions(model=model.info.model_id)
    said, hub, peer = [], [], []
    for utterance in corpus.utterances:
        transcript = await engine.transcribe(SOMEBODY, as_wav(utterance.samples), options)
        said.append(utterance.transcript)
        hub.append(transcript.text)
        peer.append((await asyncio.to_thread(bare_vosk.hear, bare, utterance.samples)).text)
    same = sum(ours == theirs for ours, theirs in zip(hub, peer, strict=True))
    title = f"{model.info.model_id} on {corpus.name}"
    print(
        f"{title:<44}{100 * jiwer.wer(said, hub):>7.1f}%{100 * jiwer.wer(said, peer):>7.1f}%  {same} of {len(said)}", flush=True
    )


async def compare_speed(models: Sequence[SpeechModel], rounds: int) -> None:
    """Print the time for a file, the time for a long one, and the memory of a live stream, beside the bare package."""
    print(f"\n{'speed':<44}{'hub':>10}{'bare':>10}{'':>6}{'ratio':>8}  aim")
    async with running_engine(max_streams=MEMORY_STREAMS) as engine:
        for model in models:
            bare = await asyncio.to_thread(bare_vosk.load, model.folder)
            for seconds, aim in ((FILE_S, f"{AIM_TIME}"), (LONG_S, "under 1")):
                await _compare_file(engine, model, bare, seconds, rounds, aim)
            await _compare_memory(engine, model)


async def _compare_file(engine: SpeechEngine, model: SpeechModel, bare: object, seconds: float, rounds: int, aim: str) -> None:
    """Alternate the two; the first round of each is warm-up."""
    samples = speech_of(model.language, seconds).samples
    wav, options = as_wav(samples), RecognitionOptions(model=model.info.model_id)
    hub_s, bare_s = [], []
    for _ in range(rounds + 1):
        started_s = time.perf_counter()
        await engine.transcribe(SOMEBODY, wav, options)
        hub_s.append(time.perf_counter() - started_s)
        bare_s.append((await asyncio.to_thread(bare_vosk.hear, bare, samples)).took_s)
    length_s = len(samples) / bare_vosk.BYTES_PER_S
    factors = statistics.median(hub_s[1:]) / length_s, statistics.median(bare_s[1:]) / length_s
    title = f"{model.info.model_id}, a file of {length_s:.0f} s"
    ratio = factors[0] / factors[1]
    print(f"{title:<44}{factors[0]:>10.4f}{factors[1]:>10.4f}{'x rt':>6}{ratio:>8.2f}  {aim} (load {machine_load()})", flush=True)


async def _compare_memory(engine: SpeechEngine, model: SpeechModel) -> None:
    samples = speech_of(model.language, LIVE_S).samples
    options = LiveOptions(recognition=RecognitionOptions(model=model.info.model_id))
    warm = await engine.open_stream(SOMEBODY, options)
    await engine.close(SOMEBODY, warm.stream_id)
    before = await asyncio.to_thread(_children_bytes)
    streams = [await engine.open_stream(SOMEBODY, options) for _ in range(MEMORY_STREAMS)]
    for block in bare_vosk.blocks(samples):
        for stream in streams:
            await engine.feed(SOMEBODY, stream.stream_id, block)
    hub = (await asyncio.to_thread(_children_bytes) - before) / MEMORY_STREAMS
    for stream in streams:
        await engine.close(SOMEBODY, stream.stream_id)
    peer = await asyncio.to_thread(_bare_bytes, model.folder, samples)
    title = f"{model.info.model_id}, memory of a live stream"
    print(f"{title:<44}{hub / 1e6:>10.1f}{peer / 1e6:>10.1f}{'MB':>6}{hub / max(peer, 1.0):>8.2f}", flush=True)


def _children_bytes() -> int:
    """Memory that only the processes of the engine hold, each its own."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended since it was listed
            total += child.memory_full_info().uss
    return total


def _bare_bytes(model: Path, samples: bytes) -> float:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(as_wav(samples))
        file.flush()
        command = [sys.executable, "-m", "benchmarks.bare_vosk", str(model), file.name, "--streams", str(MEMORY_STREAMS)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@dataclass(frozen=True, slots=True)
class Live:
    """How late the results of paced streams came, in seconds after the piece was due."""

    median_s: float
    p95_s: float

    @property
    def holds(self) -> bool:
        return self.p95_s <= MOST_LATENCY_S


async def measure_streams(models: Sequence[SpeechModel]) -> None:
    """Print how late results come on one stream, and the most streams with 95 of 100 results within `MOST_LATENCY_S`."""
    print(f"\nlive streams: pieces of {PIECE_S:g} s at the pace of speech, result after the piece was due, {LIVE_S:.0f} s each")
    async with running_engine(max_streams=MOST_STREAMS) as engine:
        for model in models:
            samples = speech_of(model.language, LIVE_S).samples
            one = await _run_streams(engine, model, samples, 1)
            print(
                f"{model.info.model_id}, one stream: median {1000 * one.median_s:.0f} ms, p95 {1000 * one.p95_s:.0f} ms",
                flush=True,
            )
            held, count = (1, one) if one.holds else (0, one), 2
            while held[1].holds and count <= MOST_STREAMS:
                live = await _run_streams(engine, model, samples, count)
                print(f"  {count} streams: p95 {1000 * live.p95_s:.0f} ms (load {machine_load()})", flush=True)
                if not live.holds:
                    break
                held, count = (count, live), count * 2
            print(f"{model.info.model_id}: {held[0]} streams within {1000 * MOST_LATENCY_S:.0f} ms at p95", flush=True)


async def _run_streams(engine: SpeechEngine, model: SpeechModel, samples: bytes, count: int) -> Live:
    options = LiveOptions(recognition=RecognitionOptions(model=model.info.model_id))
    streams = [await engine.open_stream(SOMEBODY, options) for _ in range(count)]
    begin_s = time.perf_counter() + 0.5
    # Begun evenly over one piece, as speakers do not speak in step.
    late = await asyncio.gather(
        *(_speak(engine, stream.stream_id, samples, begin_s + PIECE_S * number / count) for number, stream in enumerate(streams))
    )
    every = np.concatenate(late)
    return Live(float(np.median(every)), float(np.percentile(every, 95)))


async def _speak(engine: SpeechEngine, stream_id: str, samples: bytes, begin_s: float) -> list[float]:
    """Feed a stream at the pace of speech; return how long after each piece was spoken its result came."""
    size_bytes = int(PIECE_S * bare_vosk.BYTES_PER_S)
    late = []
    for number, start in enumerate(range(0, len(samples), size_bytes), start=1):
        due_s = begin_s + number * PIECE_S
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        await engine.feed(SOMEBODY, stream_id, samples[start : start + size_bytes])
        late.append(time.perf_counter() - due_s)
    await engine.finish(SOMEBODY, stream_id)
    return late


if __name__ == "__main__":
    main()
