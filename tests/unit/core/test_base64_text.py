import base64
import binascii

import pytest

from aihub.core import base64_text
from aihub.core.base64_text import SLICE_CHARS, decode_slices


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base64_text, "SLICE_CHARS", 8)


@pytest.mark.usefixtures("small_slices")
def test_slices_join_to_the_data_for_any_length() -> None:
    for length in range(64):
        data = bytes(range(length))
        assert b"".join(decode_slices(base64.b64encode(data).decode())) == data


@pytest.mark.usefixtures("small_slices")
@pytest.mark.parametrize(
    "text", ["AAAAAAA=AAAA", "AAAAAA==AAAA", "AAAA====AAAA", "AAAAAAAAA", "AAAAAAA AAAA", "AAAAAAAAáAAA", "AAAAAAAAAA==AAAA"]
)
def test_what_strict_base64_refuses_is_refused_in_slices_too(text: str) -> None:
    with pytest.raises(ValueError):
        binascii.a2b_base64(text, strict_mode=True)
    with pytest.raises(ValueError):
        b"".join(decode_slices(text))


def test_decoder_never_holds_the_lock_for_a_long_text(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    decode = binascii.a2b_base64

    def watched(letters: str, *, strict_mode: bool) -> bytes:
        held.append(len(letters))
        return decode(letters, strict_mode=strict_mode)

    monkeypatch.setattr(base64_text.binascii, "a2b_base64", watched)
    assert sum(map(len, decode_slices("QUJD" * (3 * SLICE_CHARS // 4) + "QQ=="))) == 3 * SLICE_CHARS // 4 * 3 + 1
    assert held == [SLICE_CHARS] * 3 + [4]
