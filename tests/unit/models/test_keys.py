import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from aihub.core.errors import InvalidRequestError
from aihub.models.keys import PROVIDERS, KeyField, ModelKey, parse_key

GOOD_KEYS = [
    "ollama:gemma2:9b",
    "ollama:library/gemma2:9b-instruct-q4_K_M",
    "vosk:vi",
    "vosk:en",
    "hf:Qwen/Qwen2.5-0.5B-Instruct",
    "local:shop-assistant",
    "github:openai/gpt-4o-mini",
    "openai:gpt-4o-mini",
    "package:smollm2",
]
# Section "Model keys" of the bad inputs every way in must refuse.
BAD_KEYS = [
    "",
    ":",
    ".",
    "..",
    "a/../b",
    "hf:a/../b",
    "hf:../b",
    "local:..",
    "local:.hidden",
    "local:%2e%2e%2f",
    "hf:%2e%2e%2fetc/passwd",
    "local:%252e%252e%252f",
    "local:a\\b",
    "hf:a\\..\\b/c",
    "/etc/passwd",
    "local:/etc/passwd",
    "hf://etc/passwd",
    "local:C:\\x",
    "local:a.",
    "local:a ",
    " local:a",
    "local:" + "a" * 300,
    "hf:" + "a" * 96 + "/" + "b" * 97,
    "local:а",  # Cyrillic
    "ollama:gemma2:９b",  # full-width digit
    "local:mô-hình",
    "local:CON",
    "local:con.txt",
    "vosk:nul",
    "hf:aux/model",
    "ollama:gemma2:com1",
    "-rf",
    "--help",
    "local:-rf",
    "local:a\n",
    "local:a\nb",
    "local:a\x00",
    "hf:",
    "ollama:",
    "package:",
    "hf:org",
    "hf:a/b/c",
    "hf:org/",
    "hf:/name",
    "hf:org:name",
    "vosk:a:b",
    "openai:a:b",
    "ollama:a:b:c",
    "ollama::9b",
    "ollama:gemma2:",
    "ollama:a/b/c:d",
    "HF:Qwen/Qwen2.5-0.5B-Instruct",
    "Ollama:gemma2:9b",
    "ollama:Gemma2:9b",
    "package:SmolLM2",
    "vosk:VI",
    "http://example.com/model",
    "file:///etc/passwd",
    "unknown:model",
    "hf:a--b/c",
    "local:a..b",
]


@pytest.mark.parametrize("text", GOOD_KEYS)
def test_good_key_is_read_and_written_the_same(text: str) -> None:
    assert str(parse_key(text)) == text


@pytest.mark.parametrize("text", BAD_KEYS)
def test_bad_key_is_refused_with_the_field_and_an_example(text: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_key(text)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_model_key", "key")
    assert "Write it like" in caught.value.message


def test_refusal_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        parse_key("local:\x1b[31mđỏ")
    assert "\x1b" not in caught.value.message


def test_key_cannot_be_made_around_the_grammar() -> None:
    with pytest.raises(InvalidRequestError):
        ModelKey("local", "../../etc")


def test_ollama_model_without_a_tag_is_its_latest() -> None:
    assert parse_key("ollama:gemma2") == parse_key("ollama:gemma2:latest")


def test_only_services_elsewhere_are_remote() -> None:
    assert {key for key in GOOD_KEYS if parse_key(key).is_remote} == {"github:openai/gpt-4o-mini", "openai:gpt-4o-mini"}


def test_slug_tells_capitals_apart_where_the_disk_does_not() -> None:
    lower, upper = parse_key("hf:qwen/qwen2.5-0.5b"), parse_key("hf:Qwen/Qwen2.5-0.5B")
    assert lower.slug.lower() != upper.slug.lower()


def test_key_is_a_field_written_as_text() -> None:
    class Document(BaseModel):
        key: KeyField

    document = Document.model_validate({"key": "vosk:vi"})
    assert document.key == ModelKey("vosk", "vi")
    assert document.model_dump_json() == '{"key":"vosk:vi"}'
    with pytest.raises(ValueError, match="This is no model key"):
        Document.model_validate({"key": "vosk:../vi"})
    with pytest.raises(ValueError, match="a model key is a text"):
        Document.model_validate({"key": 3})


names = st.text(alphabet=string.ascii_letters + string.digits + "./:-_%\\ ", max_size=40)
texts = st.one_of(st.text(max_size=60), st.builds("{}:{}".format, st.sampled_from(PROVIDERS), names))


@given(texts)
def test_any_text_is_a_safe_key_or_a_typed_refusal(text: str) -> None:
    try:
        key = parse_key(text)
    except InvalidRequestError:
        return
    assert parse_key(str(key)) == key
    assert set(key.slug) <= set(string.ascii_lowercase + string.digits + "._-@~")
    assert not key.slug.startswith((".", "-"))
    assert ".." not in key.slug
    assert len(key.slug) <= 255


@given(texts, texts)
def test_two_keys_never_share_a_folder(first: str, second: str) -> None:
    try:
        keys = parse_key(first), parse_key(second)
    except InvalidRequestError:
        return
    assert (keys[0] == keys[1]) == (keys[0].slug == keys[1].slug)


@given(st.data())
def test_names_that_differ_in_separators_only_have_folders_of_their_own(data: st.DataObject) -> None:
    parts = st.text(alphabet="ab", min_size=1, max_size=2)
    joined = {f"{data.draw(parts)}{data.draw(st.sampled_from('/-_.'))}{data.draw(parts)}" for _ in range(8)}
    keys = {ModelKey("openai", name) for name in joined}
    assert len({key.slug for key in keys}) == len(keys)
