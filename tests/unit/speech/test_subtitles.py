import srt

from aihub.speech.fake import spoken
from aihub.speech.service import Segment, Word
from aihub.speech.subtitles import LINE_CHARS, LINES, MAX_CUE_S, compose_srt, compose_vtt, split_cues

LONG = " ".join(["cửa hàng mở cửa lúc tám giờ sáng"] * 12)


def test_srt_of_vietnamese_reads_back_as_it_was() -> None:
    segments = [spoken("xin chào", start_s=1.0), spoken("tạm biệt", start_s=3661.5)]
    text = compose_srt(segments)
    assert text.startswith("1\n00:00:01,000 --> 00:00:01,500\nxin chào\n\n2\n01:01:01,500 --> ")
    assert [cue.content for cue in srt.parse(text)] == ["xin chào", "tạm biệt"]


def test_long_segment_becomes_short_cues_by_the_times_of_its_words() -> None:
    segment = spoken(LONG, start_s=2.0)
    cues = list(split_cues([segment]))
    assert len(cues) > 3
    assert max(len(line) for cue in cues for line in cue.lines) <= LINE_CHARS
    assert max(len(cue.lines) for cue in cues) <= LINES
    assert max(cue.end_s - cue.start_s for cue in cues) <= MAX_CUE_S
    assert " ".join(line for cue in cues for line in cue.lines) == LONG
    assert all(earlier.end_s <= later.start_s for earlier, later in zip(cues, cues[1:], strict=False))
    starts = {word.start_s for word in segment.words}
    assert {cue.start_s for cue in cues} <= starts


def test_segment_without_word_times_is_split_by_length() -> None:
    cues = list(split_cues([Segment(LONG, 0.0, 60.0)]))
    assert (cues[0].start_s, cues[-1].end_s) == (0.0, 60.0)
    assert " ".join(line for cue in cues for line in cue.lines) == LONG


def test_word_longer_than_a_cue_is_shown_whole() -> None:
    word = "a" * 200
    assert [cue.lines for cue in split_cues([spoken(f"x {word} y")])] == [("x", word), ("y",)]


def test_cue_of_no_length_is_kept() -> None:
    segment = Segment("a", 1.0, 1.0, (Word("a", 1.0, 1.0, 1.0),))
    assert [cue.content for cue in srt.parse(compose_srt([segment]))] == ["a"]


def test_vtt_escapes_what_is_markup_there() -> None:
    text = compose_vtt([spoken("<unk> a & b --> c", start_s=0.5)])
    assert text == "WEBVTT\n\n00:00:00.500 --> 00:00:02.000\n&lt;unk&gt; a &amp; b --&gt; c\n"


def test_silence_gives_valid_empty_files() -> None:
    assert compose_srt([Segment("", 0.0, 0.0)]) == ""
    assert compose_vtt([]) == "WEBVTT\n"
