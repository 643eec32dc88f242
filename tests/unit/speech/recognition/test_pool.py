"""Recogniser processes with a real model: what dies, hangs or leaks in one costs its request only."""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from aihub.core.errors import InvalidRequestError, ModelUnavailableError
from aihub.speech.recognition.model_process import ModelProcess
from aihub.speech.recognition.options import RecogniserLimits, RecogniserOptions
from aihub.speech.recognition.pool import RecogniserPool
from aihub.speech.recognition.recogniser import Recogniser, RecogniserDiedError
from tests.process_tree import children_of, environment_of, is_running, limit_of, private_bytes, status_of, until_ended
from tests.speech_data import Utterance, speech_model, utterances

STREAMS = 200
MIB = 2**20


@pytest.fixture
def model() -> Path:
    return speech_model("en")


@pytest.fixture
def said() -> Utterance:
    return next(utterance for utterance in utterances("en") if not utterance.is_noisy)


async def hear(pool: RecogniserPool, model: Path, utterance: Utterance) -> str:
    async with await pool.open(model, RecogniserOptions()) as recogniser:
        heard = await recogniser.hear(utterance.samples)
        last = await recogniser.finish()
    return " ".join(final["text"] for final in (*heard.finals, *last.finals) if final["text"])


async def test_utterance_is_heard(pool: RecogniserPool, model: Path, said: Utterance) -> None:
    assert await hear(pool, model, said) == said.transcript


@pytest.mark.parametrize("signum", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
async def test_death_of_a_recogniser_is_an_error_of_its_request_alone(
    pool: RecogniserPool, model: Path, said: Utterance, deaths: list[int | None], signum: signal.Signals
) -> None:
    bystander = await pool.open(model, RecogniserOptions())
    launcher = pool.loaded()[model]
    others = set(children_of(launcher))
    victim = await pool.open(model, RecogniserOptions())
    await victim.hear(said.samples)
    await bystander.hear(said.samples)
    for child in set(children_of(launcher)) - {child for child in others if child == min(others)}:
        os.kill(child, signum)
    with pytest.raises(RecogniserDiedError, match=signum.name):
        await victim.hear(said.samples)
    victim.close()
    assert (await bystander.finish()).finals[0]["text"] == said.transcript
    bystander.close()
    assert await hear(pool, model, said) == said.transcript
    assert pool.loaded()[model] == launcher
    assert -signum in deaths


async def test_audio_after_the_end_is_refused_and_the_next_request_works(
    pool: RecogniserPool, model: Path, said: Utterance
) -> None:
    recogniser = await pool.open(model, RecogniserOptions())
    await recogniser.finish()
    with pytest.raises(RecogniserDiedError):
        await recogniser.hear(said.samples)
    recogniser.close()
    assert await hear(pool, model, said) == said.transcript


async def test_recogniser_that_hangs_is_ended_within_its_time(model: Path, said: Utterance) -> None:
    pool = RecogniserPool(RecogniserLimits(answer_timeout_s=0.5))
    try:
        recogniser = await pool.open(model, RecogniserOptions())
        children = children_of(pool.loaded()[model])
        for child in children:
            os.kill(child, signal.SIGSTOP)
        with pytest.raises(RecogniserDiedError, match="did not get on"):
            await recogniser.hear(said.samples)
        for child in children[1:]:  # the one in reserve, which only this test has stopped
            os.kill(child, signal.SIGCONT)
        await until_ended(children[0])
        assert await hear(pool, model, said) == said.transcript
    finally:
        await pool.close()


async def test_cancelled_caller_ends_its_recogniser_at_once(pool: RecogniserPool, model: Path, said: Utterance) -> None:
    opened: list[Recogniser] = []

    async def listen() -> None:
        async with await pool.open(model, RecogniserOptions()) as recogniser:
            opened.append(recogniser)
            while True:
                await recogniser.hear(said.samples * 20)

    task = asyncio.create_task(listen())
    while not opened:  # noqa: ASYNC110 - set by another task
        await asyncio.sleep(0.01)
    child = min(children_of(pool.loaded()[model]))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await until_ended(child)
    assert pool.open_recognisers == 0
    assert await hear(pool, model, said) == said.transcript


async def test_dead_launcher_is_replaced_and_its_requests_fail(pool: RecogniserPool, model: Path, said: Utterance) -> None:
    recogniser = await pool.open(model, RecogniserOptions())
    children = children_of(pool.loaded()[model])
    os.kill(pool.loaded()[model], signal.SIGKILL)
    with pytest.raises(RecogniserDiedError):
        await recogniser.hear(said.samples)
    recogniser.close()
    assert await hear(pool, model, said) == said.transcript
    for child in children:
        await until_ended(child)


async def test_callers_at_once_share_one_model_process(pool: RecogniserPool, model: Path) -> None:
    several = [utterance for utterance in utterances("en") if not utterance.is_noisy][:8]
    heard = await asyncio.gather(*(hear(pool, model, utterance) for utterance in several * 2))
    assert heard == [utterance.transcript for utterance in several] * 2
    assert len(pool.loaded()) == 1


async def test_memory_is_back_after_many_streams(pool: RecogniserPool, model: Path, said: Utterance) -> None:
    async def all_private_bytes() -> int:
        launcher = pool.loaded()[model]
        return await asyncio.to_thread(lambda: sum(private_bytes(pid) for pid in (launcher, *children_of(launcher))))

    for _ in range(4):
        await asyncio.gather(*(hear(pool, model, said) for _ in range(4)))
    launcher, before = pool.loaded()[model], await all_private_bytes()
    assert before > MIB
    for _ in range(STREAMS // 4):
        await asyncio.gather(*(hear(pool, model, said) for _ in range(4)))
    async with asyncio.timeout(5):
        while len(children_of(launcher)) > (os.cpu_count() or 1):  # noqa: ASYNC110  # those that end take a moment
            await asyncio.sleep(0.05)
    assert pool.loaded()[model] == launcher
    assert await all_private_bytes() - before < 8 * MIB


async def test_process_is_replaced_when_it_is_worn(model: Path, said: Utterance) -> None:
    pool = RecogniserPool(RecogniserLimits(recycle_after=1))
    try:
        await hear(pool, model, said)
        first = set(children_of(pool.loaded()[model]))
        await hear(pool, model, said)
        await hear(pool, model, said)
        assert not first & set(children_of(pool.loaded()[model]))
    finally:
        await pool.close()


async def test_idle_model_leaves_the_memory_and_comes_back(model: Path, said: Utterance) -> None:
    pool = RecogniserPool(rest_after_s=0.4)
    try:
        recogniser = await pool.open(model, RecogniserOptions())
        await asyncio.sleep(1)
        launcher = pool.loaded()[model]  # in use, so it stays
        await recogniser.finish()
        recogniser.close()
        await until_ended(launcher)
        assert pool.loaded() == {}
        assert await hear(pool, model, said) == said.transcript
    finally:
        await pool.close()


async def test_closed_pool_leaves_no_process(model: Path, said: Utterance) -> None:
    pool = RecogniserPool()
    recogniser = await pool.open(model, RecogniserOptions())
    launcher = pool.loaded()[model]
    processes = [launcher, *children_of(launcher)]
    await pool.close()
    assert not any(is_running(pid) for pid in processes)
    with pytest.raises(RecogniserDiedError):
        await recogniser.hear(said.samples)


async def test_folder_that_is_no_model_is_refused_with_kaldis_reason(pool: RecogniserPool, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="does not contain model files"):
        await pool.open(tmp_path, RecogniserOptions())


async def test_phrases_are_all_that_is_heard(pool: RecogniserPool, model: Path, said: Utterance) -> None:
    wanted = said.transcript.split()[0]
    async with await pool.open(model, RecogniserOptions(phrases=(wanted.upper(),))) as recogniser:
        heard = await recogniser.hear(said.samples)
        finals = (*heard.finals, *(await recogniser.finish()).finals)
    words = " ".join(final["text"] for final in finals).split()
    assert wanted in words
    assert set(words) <= {wanted, "[unk]"}


async def test_phrases_with_unknown_words_are_refused_by_name(pool: RecogniserPool, model: Path) -> None:
    with pytest.raises(InvalidRequestError, match="xylophone, zebra") as refusal:
        await pool.open(model, RecogniserOptions(phrases=("one xylophone", "zebra")))
    assert refusal.value.param == "phrases"
    assert pool.open_recognisers == 0


async def test_recogniser_has_no_sockets_programs_or_file_changes(pool: RecogniserPool, model: Path) -> None:
    async with await pool.open(model, RecogniserOptions()):
        listening = min(children_of(pool.loaded()[model]))  # the other one may only begin
        status = status_of(listening)
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert limit_of(listening, "Max address space") != "unlimited"
        assert "OPENBLAS_NUM_THREADS=1" in environment_of(listening)


async def test_results_are_those_of_vosk_alone(pool: RecogniserPool, model: Path) -> None:
    program = (
        "import json, sys, vosk; vosk.SetLogLevel(-1); data = sys.stdin.buffer.read()\n"
        "recogniser = vosk.KaldiRecognizer(vosk.Model(sys.argv[1]), 16000); recogniser.SetWords(True); results = []\n"
        "for start in range(0, len(data), 8000):\n"
        "    if recogniser.AcceptWaveform(data[start:start + 8000]): results.append(json.loads(recogniser.Result()))\n"
        "print(json.dumps([*results, json.loads(recogniser.FinalResult())]))"
    )
    audio = b"".join(utterance.samples for utterance in utterances("en"))
    bare = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(model), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await bare.communicate(audio)
    async with await pool.open(model, RecogniserOptions()) as recogniser:
        finals = [
            final
            for start in range(0, len(audio), 64_000)
            for final in (await recogniser.hear(audio[start : start + 64_000])).finals
        ]
        finals.extend((await recogniser.finish()).finals)
    assert finals == json.loads(printed)


async def test_model_that_restarts_while_another_is_stopped_stays_and_rests_later(
    model: Path, said: Utterance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop, is_stopping = ModelProcess.stop, threading.Event()

    def stop_slowly(process: ModelProcess) -> None:
        is_stopping.set()
        time.sleep(0.3)
        stop(process)

    monkeypatch.setattr(ModelProcess, "stop", stop_slowly)
    vietnamese = speech_model("vi")
    pool = RecogniserPool(rest_after_s=0.4)
    try:
        await hear(pool, model, said)
        async with await pool.open(vietnamese, RecogniserOptions()):
            dead = pool.loaded()[vietnamese]
            await asyncio.to_thread(is_stopping.wait, 5.0)  # the other one
            os.kill(dead, signal.SIGKILL)
            async with asyncio.timeout(5.0):
                while vietnamese in pool.loaded():  # noqa: ASYNC110  # the end of a process is no event
                    await asyncio.sleep(0.01)
        async with await pool.open(vietnamese, RecogniserOptions()):
            await asyncio.sleep(0.4)
            assert pool.loaded().keys() == {vietnamese}
        async with asyncio.timeout(5.0):
            while pool.loaded():  # noqa: ASYNC110 - a rest has no event
                await asyncio.sleep(0.05)
    finally:
        await pool.close()
    gc.collect()
    assert "never retrieved" not in caplog.text  # by which asyncio tells of a task that has failed behind everybody's back
