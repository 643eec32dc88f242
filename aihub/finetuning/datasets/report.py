"""Whether a training file and its validation file are fit to train on, and what is in them."""

import hashlib
import statistics
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aihub.core.errors import InvalidRequestError
from aihub.finetuning.datasets.formats import DatasetFormat
from aihub.finetuning.datasets.problems import FileProblems, Param
from aihub.finetuning.datasets.reading import DatasetReader, open_dataset
from aihub.finetuning.datasets.rows import Container
from aihub.finetuning.examples import Example, Turn

MIN_TRAINING_ROWS = 2
MAX_LINES_SHOWN = 10

TokenMask = Callable[[tuple[Turn, ...]], Sequence[bool]]
"""Whether each token of a conversation is trained, in order; an `InvalidRequestError` says why it has no tokens."""


@dataclass(frozen=True, slots=True)
class DatasetReport:
    """What one file holds.

    Attributes:
        sha256: Of its bytes, as lower hex.
        size_bytes: Of the file.
        container: How the rows are written.
        format: What a row is.
        rows: All of them.
        untrainable_rows: Left out of the training, as no trained token is within the first `max_tokens`.
        untrainable_lines: Where the first ten of them begin.
        truncated_rows: Longer than `max_tokens`; their end is cut off.
        duplicate_rows: Equal to an earlier row of the file.
        duplicate_lines: Where the first ten of them begin.
        leaked_rows: Of a validation file: equal to a row of the training file, so that their loss says little.
        leaked_lines: Where the first ten of them begin.
        max_tokens: What a row is cut to.
        total_tokens: Of the rows that are trained on, after cutting.
        trained_tokens: Those of them that the model learns.
        shortest_tokens: Of the shortest row, before cutting, as are the next two.
        median_tokens: Of the lower middle row.
        longest_tokens: Of the longest row.
    """

    sha256: str
    size_bytes: int
    container: Container
    format: DatasetFormat
    rows: int
    untrainable_rows: int
    untrainable_lines: tuple[int, ...]
    truncated_rows: int
    duplicate_rows: int
    duplicate_lines: tuple[int, ...]
    leaked_rows: int
    leaked_lines: tuple[int, ...]
    max_tokens: int
    total_tokens: int
    trained_tokens: int
    shortest_tokens: int
    median_tokens: int
    longest_tokens: int


def check_datasets(
    training: Path,
    validation: Path | None,
    mask_tokens: TokenMask,
    max_tokens: int,
    *,
    param: Param = "training_file",
) -> tuple[DatasetReport, DatasetReport | None]:
    """Read both files to their end and report on each. Blocking; takes as long as tokenizing them.

    Args:
        training: The file to learn from.
        validation: The file to measure on, if there is one.
        mask_tokens: The base model's tokenizer.
        max_tokens: Longest conversation that is trained on.
        param: The request field that named the training file.

    Raises:
        InvalidRequestError: A file cannot be trained on; the message names up to ten lines and reasons.
    """
    tally = _Tally(mask_tokens, max_tokens, {})
    report = _check(training, param, tally, MIN_TRAINING_ROWS)
    if validation is None:
        return report, None
    return report, _check(validation, "validation_file", _Tally(mask_tokens, max_tokens, tally.first_lines), 1)


def _check(path: Path, param: Param, tally: "_Tally", min_rows: int) -> DatasetReport:
    problems = FileProblems(param)
    with open_dataset(path, param) as file:
        reader = DatasetReader(file, problems)
        for example in reader:
            try:
                tally.add(example)
            except InvalidRequestError as error:
                problems.add(example.line, error.message)
        problems.check()
    usable = reader.rows - tally.untrainable.count
    if not usable:
        raise problems.refusal(
            f"has no row to learn from: the answers of all {reader.rows} lie behind the first {tally.max_tokens} tokens, "
            "where rows are cut. Shorten what comes before them, or allow longer rows."
        )
    if usable < min_rows:
        raise problems.refusal(f"has {usable} row to learn from and needs {min_rows} at least. Add more.")
    return tally.report(reader)


@dataclass(slots=True)
class _Lines:
    """How many rows are of some kind, and where the first begin."""

    count: int = 0
    shown: tuple[int, ...] = ()

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.shown) < MAX_LINES_SHOWN:
            self.shown = (*self.shown, line)


class _Tally:
    """Counts of one file; of a row, 16 bytes of its hash and its length stay in memory."""

    def __init__(self, mask_tokens: TokenMask, max_tokens: int, training: Mapping[bytes, int]) -> None:
        self.max_tokens = max_tokens
        self.first_lines: dict[bytes, int] = {}
        self.untrainable = _Lines()
        self._mask_tokens = mask_tokens
        self._training = training
        self._duplicates = _Lines()
        self._leaked = _Lines()
        self._lengths = array("L")
        self._truncated_rows = 0
        self._total_tokens = 0
        self._trained_tokens = 0

    def add(self, example: Example) -> None:
        mask = self._mask_tokens(example.turns)
        kept = mask[: self.max_tokens]
        trained_tokens = sum(kept)
        self._lengths.append(len(mask))
        self._truncated_rows += len(mask) > self.max_tokens
        if trained_tokens:
            self._total_tokens += len(kept)
            self._trained_tokens += trained_tokens
        else:
            self.untrainable.add(example.line)
        content = _content_hash(example.turns)
        if self.first_lines.setdefault(content, example.line) != example.line:
            self._duplicates.add(example.line)
        if content in self._training:
            self._leaked.add(example.line)

    def report(self, reader: DatasetReader) -> DatasetReport:
        return DatasetReport(
            sha256=reader.sha256,
            size_bytes=reader.size_bytes,
            container=reader.container,
            format=reader.format,
            rows=reader.rows,
            untrainable_rows=self.untrainable.count,
            untrainable_lines=self.untrainable.shown,
            truncated_rows=self._truncated_rows,
            duplicate_rows=self._duplicates.count,
            duplicate_lines=self._duplicates.shown,
            leaked_rows=self._leaked.count,
            leaked_lines=self._leaked.shown,
            max_tokens=self.max_tokens,
            total_tokens=self._total_tokens,
            trained_tokens=self._trained_tokens,
            shortest_tokens=min(self._lengths),
            median_tokens=statistics.median_low(self._lengths),
            longest_tokens=max(self._lengths),
        )


def _content_hash(turns: tuple[Turn, ...]) -> bytes:
    content = hashlib.blake2b(digest_size=16)
    for turn in turns:
        text = turn.text.encode()
        content.update(f"{turn.role} {turn.is_trained:d} {len(text)} ".encode() + text)
    return content.digest()
