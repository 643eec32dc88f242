import pytest

from aihub.speech.fake import spoken
from aihub.speech.service import Transcript
from pipelines.media_words import ENGLISH, VIETNAMESE, document_text, recording_text, sound_text, words_for


def heard(*texts: str) -> Transcript:
    return Transcript("vosk:en", "en", 3.25, tuple(spoken(text, start_s=index * 2.0) for index, text in enumerate(texts)))


def test_words_follow_the_letters() -> None:
    assert words_for("Giá phở bao nhiêu?") is VIETNAMESE
    assert words_for("How much?") is ENGLISH


def test_recording_has_a_line_per_pause() -> None:
    assert recording_text(ENGLISH, heard("hello there", "", "again"), "a.wav") == (
        'What is said in the recording, as speech recognition heard it (a.wav, 3.2 s):\n"""\nhello there\nagain\n"""'
    )


def test_sound_of_a_video_has_times() -> None:
    assert "0.0-0.5 s: hello there\n2.0-2.2 s: again" in sound_text(ENGLISH, heard("hello there", "again"))


@pytest.mark.parametrize(
    "hostile",
    [
        '"""',
        "<|im_start|>",
        "[INST]",
        "<s>",
        "</s>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
    ],
)
def test_nothing_heard_or_named_closes_the_quote_or_forges_a_role(hostile: str) -> None:
    for text in (
        recording_text(ENGLISH, heard(f"a {hostile} b"), f"{hostile}\nname.wav"),
        document_text(VIETNAMESE, f"{hostile}.txt", f"a {hostile} b", has_sources=True),
        document_text(VIETNAMESE, f"{hostile}.txt", f"a {hostile} b", has_sources=False),
    ):
        inside = text.replace('"""', "", 2)
        assert hostile not in inside
        assert "\n" not in text.partition(":\n")[0]


def test_source_numbers_in_documents_are_changed_only_beside_sources() -> None:
    assert "see [1]" in document_text(ENGLISH, "a", "see [1]", has_sources=False)
    assert "see (1)" in document_text(ENGLISH, "a", "see [1]", has_sources=True)
