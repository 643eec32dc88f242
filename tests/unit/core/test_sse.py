import json

from aihub.core.errors import OverloadedError
from aihub.core.sse import DONE, data_event, error_frame, events, payload


def test_frame_is_taken_apart_without_loss() -> None:
    frame = data_event({"a": 1}) + data_event({"b": "x\n\ny"}) + DONE
    assert list(events(frame)) == [data_event({"a": 1}), data_event({"b": "x\n\ny"}), DONE]


def test_empty_frame_has_no_events() -> None:
    assert list(events("")) == []


def test_payload_is_the_json_object() -> None:
    assert payload(data_event({"text": "phở"})) == {"text": "phở"}


def test_done_and_comments_have_no_payload() -> None:
    assert payload(DONE) is None
    assert payload(": ping\n\n") is None


def test_event_stays_on_one_line() -> None:
    assert data_event({"text": "a\nb\u2028c"}).count("\n") == 2


def test_error_frame_is_openais_object_then_done() -> None:
    first, last = events(error_frame(OverloadedError("Busy.")))
    assert json.loads(first.removeprefix("data: "))["error"]["code"] == "overloaded"
    assert last == DONE
