"""What the tests on data sets share."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets.problems import FileProblems, Param
from aihub.finetuning.datasets.reading import DatasetReader
from aihub.finetuning.datasets.report import DatasetReport, check_datasets
from aihub.finetuning.examples import Example, Turn

CHAT = {
    "messages": [
        {"role": "system", "content": "Bạn là nhân viên của tiệm phở."},
        {"role": "user", "content": "Tiệm mở cửa lúc mấy giờ?"},
        {"role": "assistant", "content": "Dạ, sáu giờ sáng ạ."},
    ]
}
INSTRUCTION = {"instruction": "Dịch sang tiếng Anh.", "input": "Cà phê sữa đá", "output": "Iced milk coffee"}
PROMPT = {"prompt": "Giá một tô phở?", "completion": "Năm mươi nghìn đồng."}
QUESTION = {"question": "Có giao hàng không?", "answer": "Có, trong nội thành."}


def lines(*rows: Any) -> bytes:
    """JSON lines, as most programs write them."""
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def mask_words(turns: tuple[Turn, ...]) -> Sequence[bool]:
    """A token for each word, and one for each role; the words of trained turns are learnt."""
    return [trained for turn in turns for trained in (False, *[turn.is_trained] * len(turn.text.split()))]


def write(folder: Path, content: bytes, name: str = "data") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def read(folder: Path, content: bytes, *, param: Param = "training_file") -> list[Example]:
    with write(folder, content).open("rb") as file:
        return list(DatasetReader(file, FileProblems(param)))


def check(folder: Path, content: bytes, *, max_tokens: int = 64) -> DatasetReport:
    return check_datasets(write(folder, content), None, mask_words, max_tokens)[0]


def refusal(folder: Path, content: bytes, *, max_tokens: int = 64) -> str:
    """What a client is told about a file that is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        check(folder, content, max_tokens=max_tokens)
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_training_file", "training_file")
    assert "body" not in error.message
    return error.message
