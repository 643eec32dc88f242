"""Checks in real processes with a real tokenizer."""

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from aihub.core.errors import InternalError, InvalidRequestError, OverloadedError
from aihub.finetuning.datasets import checking
from aihub.finetuning.datasets.checking import DatasetCheck, DatasetChecker
from tests.unit.finetuning.jobs_hub import ROWS, jsonl

CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's tokenizer with a token a byte."""
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("base")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in ("<|im_start|>", "<|im_end|>")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return folder


def check_of(base: Path, folder: Path, content: bytes, validation: bytes | None = None, **changes: Any) -> DatasetCheck:
    training = folder / "training.data"
    training.write_bytes(content)
    if validation is not None:
        (folder / "validation.data").write_bytes(validation)
    values = {"base": base, "training": training, "max_tokens": 1024, "param": "training_file"}
    return DatasetCheck(**{"validation": folder / "validation.data" if validation is not None else None} | values | changes)


def checks_of(path: Path) -> list[psutil.Process]:
    """Processes that check this file."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if checking.MODULE in words and any(str(path) in word for word in words):
            found.append(process)
    return found


async def test_reports_of_both_files_come_back(base: Path, tmp_path: Path) -> None:
    reports = await DatasetChecker().check(check_of(base, tmp_path, jsonl(ROWS), jsonl(ROWS[:2])))
    assert list(reports) == ["training", "validation"]
    assert (reports["training"]["rows"], reports["validation"]["leaked_rows"]) == (30, 2)
    answers = sum(len(row["completion"].encode()) + 1 for row in ROWS)
    assert reports["training"]["trained_tokens"] == answers


async def test_wrong_lines_come_back_as_they_were_told(base: Path, tmp_path: Path) -> None:
    content = jsonl([*ROWS[:2], {"prompt": "câu trả lời đâu?"}])
    with pytest.raises(InvalidRequestError, match="Line 3: 'completion' is required") as caught:
        await DatasetChecker().check(check_of(base, tmp_path, content, param="dataset_path"))
    assert (type(caught.value), caught.value.code) == (InvalidRequestError, "invalid_training_file")
    assert caught.value.param == "dataset_path"


async def test_a_model_without_a_chat_template_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="tokenizer.json"):
        await DatasetChecker().check(check_of(tmp_path, tmp_path, jsonl(ROWS)))


async def test_the_process_ends_with_a_caller_that_leaves_and_after_the_time_limit(base: Path, tmp_path: Path) -> None:
    check = check_of(base, tmp_path, jsonl(ROWS * 4000))
    checker = DatasetChecker(processes=1)
    checking_task = asyncio.create_task(checker.check(check))
    deadline_s = time.monotonic() + 30
    while not await asyncio.to_thread(checks_of, check.training):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    checking_task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await checking_task
    assert await asyncio.to_thread(checks_of, check.training) == []
    with pytest.raises(InvalidRequestError, match="longer than 0.3 s"):
        await DatasetChecker(timeout_s=0.3).check(check)
    assert await asyncio.to_thread(checks_of, check.training) == []


async def test_a_process_that_dies_is_an_error_and_the_next_check_works(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker = DatasetChecker(processes=1)
    with monkeypatch.context() as patch:
        patch.setattr(checking, "MODULE", "aihub.finetuning.no_such_module")
        with pytest.raises(InternalError, match="died"):
            await checker.check(check_of(base, tmp_path, jsonl(ROWS)))
    assert (await checker.check(check_of(base, tmp_path, jsonl(ROWS))))["training"]["rows"] == 30


async def test_only_so_many_checks_run_and_wait(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running, most = 0, 0
    hold = asyncio.Event()

    async def ask(_: DatasetCheck) -> dict[str, Any]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await hold.wait()
        running -= 1
        return {"reports": [{"rows": 1}, None]}

    monkeypatch.setattr(checking, "_ask", ask)
    checker = DatasetChecker(processes=2, waiting=3)
    check = check_of(base, tmp_path, b"")
    tasks = [asyncio.create_task(checker.check(check)) for _ in range(5)]
    await asyncio.sleep(0.05)
    with pytest.raises(OverloadedError):
        await checker.check(check)
    tasks[4].cancel()  # one that waits
    with pytest.raises(asyncio.CancelledError):
        await tasks[4]
    hold.set()
    assert await asyncio.gather(*tasks[:4]) == [{"training": {"rows": 1}}] * 4
    assert most == 2
    assert await checker.check(check) == {"training": {"rows": 1}}
