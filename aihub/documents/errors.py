"""Why a file did not become text."""

from typing import Literal

from aihub.errors import InvalidRequestError

DocumentErrorCode = Literal[
    "unsupported_file",
    "invalid_file",
    "empty_file",
    "encrypted_file",
    "too_large",
    "parse_timeout",
    "parse_memory",
]


class DocumentError(InvalidRequestError):
    """The file cannot be indexed as it is; the same file will fail again.

    `code` says why: `unsupported_file` (no format we read), `invalid_file` (damaged, or not what its name says),
    `empty_file` (no text in it), `encrypted_file` (needs a password), `too_large` (too many pages, characters or chunks),
    `parse_timeout` and `parse_memory` (reading it took more than one document may take).
    """

    code = "invalid_file"

    def __init__(
        self,
        message: str,
        *,
        code: DocumentErrorCode = "invalid_file",
        param: str | None = "file",
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after_s=retry_after_s)
