"""What is said about a file that can be trained on."""

import csv
import dataclasses
import gzip
import hashlib
import io
import json
import os
import statistics
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets.report import check_datasets
from aihub.finetuning.examples import Turn
from tests.unit.finetuning.datasets.dataset_parts import PROMPT, check, lines, mask_words, refusal, write

DATA = Path(os.environ.get("AIHUB_SHARED_DATA") or Path(__file__).resolve().parents[5] / "shared" / "data")


def row(asked: int, answered: int, word: str = "a") -> dict[str, Any]:
    """A row of as many words; with the tokens of its two roles it has two tokens more."""
    return {"prompt": " ".join([word] * asked), "completion": " ".join([word] * answered)}


def test_tokens_are_counted_after_cutting_and_lengths_before(tmp_path: Path) -> None:
    report = check(tmp_path, lines(row(1, 2), row(2, 3), row(4, 20), row(3, 4)), max_tokens=10)
    assert report.max_tokens == 10
    assert (report.rows, report.truncated_rows, report.untrainable_rows) == (4, 1, 0)
    assert report.total_tokens == 5 + 7 + 10 + 9
    assert report.trained_tokens == 2 + 3 + 4 + 4
    assert (report.shortest_tokens, report.median_tokens, report.longest_tokens) == (5, 7, 26)


def test_row_of_exactly_the_longest_length_is_not_cut(tmp_path: Path) -> None:
    assert check(tmp_path, lines(row(4, 4), row(4, 5)), max_tokens=10).truncated_rows == 1


def test_rows_whose_answer_is_cut_off_are_told_and_left_out_of_the_counts(tmp_path: Path) -> None:
    report = check(tmp_path, lines(row(1, 1), row(50, 1), row(2, 1), row(8, 1)), max_tokens=10)
    assert (report.rows, report.untrainable_rows, report.untrainable_lines, report.truncated_rows) == (4, 2, (2, 4), 2)
    assert (report.total_tokens, report.trained_tokens) == (4 + 5, 2)


def test_file_whose_every_answer_is_cut_off_is_refused(tmp_path: Path) -> None:
    message = refusal(tmp_path, lines(row(50, 1), row(60, 1)), max_tokens=10)
    assert "the answers of all 2 lie behind the first 10 tokens" in message


def test_file_with_one_row_left_after_cutting_is_refused(tmp_path: Path) -> None:
    assert "has 1 row to learn from and needs 2" in refusal(tmp_path, lines(row(50, 1), row(1, 1)), max_tokens=10)


def test_exact_duplicates_are_counted_with_their_lines(tmp_path: Path) -> None:
    other_spelling = {"question": "a", "answer": "b"}
    rows = [{"question": "a", "answer": "b "}, other_spelling, other_spelling, {"question": "A", "answer": "b"}]
    report = check(tmp_path, lines(*rows, *[other_spelling] * 20))
    assert report.duplicate_rows == 21
    assert report.duplicate_lines == (3, 5, 6, 7, 8, 9, 10, 11, 12, 13)


def test_same_words_in_other_turns_or_with_another_weight_are_no_duplicates(tmp_path: Path) -> None:
    def chat(*texts: str, weight: int = 1) -> dict[str, Any]:
        roles = ["user", "assistant"] * len(texts)
        messages: list[dict[str, Any]] = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
        messages[1]["weight"] = weight
        return {"messages": messages}

    rows = [chat("a", "b", "c", "d"), chat("a", "b", "c", "d", weight=0), chat("a", "b c", "c", "d"), chat("a b", "c", "c", "d")]
    assert check(tmp_path, lines(*rows)).duplicate_rows == 0
    assert check(tmp_path, lines(*rows, rows[1])).duplicate_lines == (5,)


def test_validation_rows_that_are_trained_on_are_told_as_leaked_whatever_their_format(tmp_path: Path) -> None:
    training = write(tmp_path, lines(PROMPT, row(1, 1), row(2, 2)), "training")
    validation = write(tmp_path, b"question,answer\nx,y\na,a\nx,y\n", "validation")
    report, held_out = check_datasets(training, validation, mask_words, 64)
    assert held_out is not None
    assert (report.leaked_rows, held_out.leaked_rows, held_out.leaked_lines) == (0, 1, (3,))
    assert (held_out.rows, held_out.duplicate_rows, held_out.container) == (3, 1, "csv")


def test_validation_file_may_have_one_row_and_is_refused_by_its_own_name(tmp_path: Path) -> None:
    training = write(tmp_path, lines(PROMPT, row(1, 1)), "training")
    _, held_out = check_datasets(training, write(tmp_path, lines(row(3, 3)), "validation"), mask_words, 64)
    assert held_out is not None
    assert held_out.rows == 1
    with pytest.raises(InvalidRequestError, match="The validation file has 1 problem. Line 2: ") as caught:
        check_datasets(training, write(tmp_path, lines(PROMPT, {}), "validation"), mask_words, 64)
    assert (caught.value.code, caught.value.param) == ("invalid_validation_file", "validation_file")


def test_what_the_tokenizer_refuses_is_told_with_the_other_problems(tmp_path: Path) -> None:
    def mask(turns: tuple[Turn, ...]) -> list[bool]:
        if "bad" in turns[0].text:
            raise InvalidRequestError("It holds a control token.")
        return list(mask_words(turns))

    path = write(tmp_path, lines(PROMPT, row(1, 1, "bad"), PROMPT, {"prompt": "a"}, row(2, 2, "bad")))
    with pytest.raises(InvalidRequestError) as caught:
        check_datasets(path, None, mask, 64, param="dataset_path")
    assert caught.value.message == (
        "The data set has 3 problems. Line 2: It holds a control token. Line 4: 'completion' is required. "
        "Line 5: It holds a control token. Correct the file and send it again."
    )
    assert (caught.value.code, caught.value.param) == ("invalid_training_file", "dataset_path")


def test_files_checked_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    contents = [table_of(number) for number in range(2, 10)]
    paths = [write(tmp_path, content, f"{number}") for number, content in enumerate(contents)]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda path: check_datasets(path, None, mask_words, 64)[0], paths))
    assert [report.rows for report in reports] == list(range(2, 10))
    assert [report.sha256 for report in reports] == [hashlib.sha256(content).hexdigest() for content in contents]


def table_of(count: int) -> bytes:
    return b"question,answer\n" + b"".join(f'"{number}\n,","{"dài " * 5_000}"\n'.encode() for number in range(count))


def test_report_can_be_stored_as_json(tmp_path: Path) -> None:
    report = check(tmp_path, lines(row(1, 2), row(2, 3)))
    assert json.loads(json.dumps(dataclasses.asdict(report)))["sha256"] == report.sha256


def test_memory_does_not_grow_with_the_size_of_the_rows(tmp_path: Path) -> None:
    path = write(tmp_path, b"".join(lines({"prompt": f"{number}", "completion": "dài " * 20_000}) for number in range(200)))
    assert path.stat().st_size > 16 * 2**20
    tracemalloc.start()
    try:
        check_datasets(path, None, lambda _: [True], 64)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


def test_vietnamese_instructions_are_read_whole(tmp_path: Path) -> None:
    files = []
    for name in ("train", "eval"):
        packed = DATA / "instruct-vi" / f"{name}.jsonl.gz"
        if not packed.is_file():
            pytest.skip(f"{packed} is not here; set AIHUB_SHARED_DATA to the folder that holds it")
        files.append(write(tmp_path, gzip.decompress(packed.read_bytes()), name))
    report, held_out = check_datasets(*files, mask_words, 200)
    assert held_out is not None
    assert (report.format, report.rows, held_out.rows) == ("instruction", 1013, 177)
    answers = [json.loads(line)["output"].split() for line in files[0].read_text(encoding="utf-8").splitlines()]
    assert report.truncated_rows > 0
    assert 0 < report.trained_tokens <= sum(map(len, answers))
    assert held_out.leaked_rows == 0


def test_intents_of_customers_are_read_whole_and_rows_in_both_files_are_found(tmp_path: Path) -> None:
    tables: list[list[tuple[str, str]]] = []
    files = []
    for name in ("train.csv", "test_a.csv"):
        path = DATA / "banking77" / name
        if not path.is_file():
            pytest.skip(f"{path} is not here; set AIHUB_SHARED_DATA to the folder that holds it")
        assert "Found here: text, category" in refusal(tmp_path, path.read_bytes())
        text = path.read_text(encoding="utf-8").replace("text,category", "prompt,completion", 1)
        files.append(write(tmp_path, text.encode(), name))
        tables.append([(entry["prompt"], entry["completion"]) for entry in csv.DictReader(io.StringIO(text))])
    report, held_out = check_datasets(*files, mask_words, 512)
    assert held_out is not None
    assert (report.format, report.rows, held_out.rows) == ("prompt_completion", 10_003, 1_540)
    assert report.duplicate_rows == len(tables[0]) - len(set(tables[0]))
    assert held_out.leaked_rows == sum(entry in set(tables[0]) for entry in tables[1])
    assert report.trained_tokens == sum(len(answer.split()) for _, answer in tables[0])
    assert report.median_tokens == statistics.median_low(len(f"{asked} {answer}".split()) + 2 for asked, answer in tables[0])
