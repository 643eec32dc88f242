"""`python -P -m aihub.finetuning.datasets.check_process`: checks data files in a process of its own and ends.

Its argument is JSON: `base`, `training`, `validation` (null without one), `max_tokens`, `param`. It writes one line of JSON:
`reports`, or `error` with what a `HubError` carries. It ends when its standard input does, so that none outlives its parent.
"""

import contextlib
import json
import os
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aihub.core.errors import HubError

NICENESS = 10
"""Below what answers requests."""


def main(arguments: list[str]) -> int:
    """Check once; the exit code is 0 also for files that are wrong."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.nice(NICENESS)
    # Libraries print as they like; the pipe to the parent is for the answer only.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        answer: dict[str, Any]
        try:
            answer = {"reports": _check(**json.loads(arguments[0]))}
        except HubError as error:
            answer = {"error": {"kind": type(error).__name__, "message": error.message, "param": error.param, "code": error.code}}
        answers.write(json.dumps(answer) + "\n")
    return 0


def _check(*, base: str, training: str, validation: str | None, max_tokens: int, param: Any) -> list[dict[str, Any] | None]:
    # Tokenizers do without torch, whose import takes most of the time of a small check.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # Python's mark of a module that is not there
    from aihub.finetuning.chat_tokens import ChatTokenizer
    from aihub.finetuning.datasets.report import check_datasets

    mask = ChatTokenizer(Path(base)).mask
    reports = check_datasets(Path(training), Path(validation) if validation else None, mask, max_tokens, param=param)
    return [None if report is None else asdict(report) for report in reports]


def _end_with_parent() -> None:
    # Unbuffered: Python cannot shut down while a thread holds the buffer of sys.stdin.
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
