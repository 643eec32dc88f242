from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.accounts.requests import LONGEST_LIFE, KeyRequest, TenantRequest, parse_expiry
from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import validate
from aihub.recsys.artifacts import ArtifactStore

NOW = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90d", NOW + timedelta(days=90)),
        ("12h", NOW + timedelta(hours=12)),
        ("2w", NOW + timedelta(days=14)),
        ("30m", NOW + timedelta(minutes=30)),
        (" 1d ", NOW + timedelta(days=1)),
        ("2026-11-27", datetime(2026, 11, 27, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2027-01-31", datetime(2027, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
        ("2027-01-31T18:00+07:00", datetime(2027, 1, 31, 11, 0, tzinfo=UTC)),
        ("2027-01-31T18:00", datetime(2027, 1, 31, 18, 0, tzinfo=UTC)),
    ],
)
def test_expiry_is_read_as_written(text: str, moment: datetime) -> None:
    assert parse_expiry(text, NOW) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "d",
        "90",
        "-1d",
        "1.5d",
        "90 d",
        "90D",
        "2027-13-01",
        "2027-02-30",
        "27-01-2027",
        "tomorrow",
        "９０d",
        "0001-01-01T00:00+14:00",
    ],
)
def test_what_is_no_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="90d"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize("text", ["0d", "2026-11-26", "2026-11-27T08:00", "2026-11-27T14:59+07:00"])
def test_past_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="past"):
        parse_expiry(text, NOW)


@pytest.mark.parametrize("text", ["3661d", "999999w", "2099-01-01", "9999-12-31"])
def test_life_beyond_ten_years_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="ten years"):
        parse_expiry(text, NOW)


@given(st.text(max_size=30))
def test_any_text_is_a_moment_ahead_or_refused(text: str) -> None:
    try:
        moment = parse_expiry(text, NOW)
    except InvalidRequestError as error:
        assert error.param == "expires"
    else:
        assert NOW < moment <= NOW + LONGEST_LIFE


@given(st.text(max_size=70))
def test_tenant_is_accepted_only_where_it_can_name_a_folder(text: str) -> None:
    try:
        request = validate(TenantRequest, {"id": text, "name": "x"})
    except InvalidRequestError:
        return
    assert request.id.isascii()
    assert "/" not in request.id
    ArtifactStore(Path("/tmp/none"), tenant=request.id)  # refuses a tenant that names no folder


@given(st.text(max_size=80))
def test_name_that_is_accepted_can_be_printed_on_one_line(text: str) -> None:
    try:
        request = validate(KeyRequest, {"name": text})
    except InvalidRequestError as error:
        assert error.param == "name"
        return
    assert request.name.isprintable()
    assert 1 <= len(request.name) <= 64
    assert request.name == request.name.strip()


@pytest.mark.parametrize("field", ["requests_per_minute", "tokens_per_minute", "streams", "tokens_per_day"])
@pytest.mark.parametrize("value", [0, -1, 10**16, True, "5", 1.5])
def test_limit_is_a_positive_number(field: str, value: object) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        validate(KeyRequest, {"name": "x", field: value})
    assert caught.value.param == field


@pytest.mark.parametrize("field", ["routes", "models", "vector_stores"])
def test_scope_that_allows_nothing_or_too_much_is_refused(field: str) -> None:
    for value in ([], [""], ["/v1"] * 101, ["/" + "a" * 256]):
        with pytest.raises(InvalidRequestError):
            validate(KeyRequest, {"name": "x", field: value})
