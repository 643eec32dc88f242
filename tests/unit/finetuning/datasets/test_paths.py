import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aihub.core.errors import InvalidRequestError, NotFoundError
from aihub.finetuning.datasets.paths import resolve_dataset_path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A state folder with data sets, and a secret beside them."""
    folder = tmp_path / "state" / "datasets"
    (folder / "shop").mkdir(parents=True)
    (tmp_path / "state" / "secret.jsonl").write_text("{}", encoding="utf-8")
    for name in ("faq.jsonl", "shop/câu hỏi 1.csv", "v1.2_final-b.json"):
        (folder / name).write_text("{}", encoding="utf-8")
    return tmp_path / "state"


@pytest.mark.parametrize("name", ["faq.jsonl", "shop/câu hỏi 1.csv", "v1.2_final-b.json"])
def test_names_in_the_folder_are_found_in_either_unicode_form(home: Path, name: str) -> None:
    for form in (name, unicodedata.normalize("NFD", name)):
        assert resolve_dataset_path(form, home) == (home / "datasets" / name).resolve()


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../secret.jsonl",
        "shop/../../secret.jsonl",
        "shop/../faq.jsonl",
        "./faq.jsonl",
        "shop//faq.jsonl",
        "faq.jsonl/",
        "/etc/passwd",
        "//etc/passwd",
        "~/faq.jsonl",
        "~root/faq.jsonl",
        "..\\secret.jsonl",
        "C:\\faq.jsonl",
        "%2e%2e%2fsecret.jsonl",
        "%252e%252e/secret.jsonl",
        "file:///etc/passwd",
        "$HOME/faq.jsonl",
        "faq.jsonl\n",
        "faq\x00.jsonl",
        "faq.jsonl ",
        "faq.jsonl.",
        " faq.jsonl",
        "-faq.jsonl",
        ".faq.jsonl",
        "shop/.hidden",
        "a..b",
        "\uff0e\uff0e/secret.jsonl",
        "\u2025/secret.jsonl",
        "..\uff0fsecret.jsonl",
        "..\u2215secret.jsonl",
        "ﬁle.jsonl",
        "faq\u202elnosj.exe",
        "faq\u200b.jsonl",
        "faq\u00a0.jsonl",
        "\ud800.jsonl",
        "*",
        "a" * 256,
    ],
)
def test_names_that_could_lead_elsewhere_are_refused(home: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        resolve_dataset_path(name, home)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, "invalid_dataset_path", "dataset_path")
    assert caught.value.message.isprintable()


def test_links_that_lead_out_are_refused_and_links_inside_are_followed(home: Path) -> None:
    folder = home / "datasets"
    (folder / "out.jsonl").symlink_to(home / "secret.jsonl")
    (folder / "up").symlink_to(home)
    (folder / "same.jsonl").symlink_to("faq.jsonl")
    (folder / "loop.jsonl").symlink_to("loop.jsonl")
    for name in ("out.jsonl", "up/secret.jsonl"):
        with pytest.raises(InvalidRequestError, match="leads out") as caught:
            resolve_dataset_path(name, home)
        assert caught.value.code == "invalid_dataset_path"
    assert resolve_dataset_path("same.jsonl", home) == (folder / "faq.jsonl").resolve()
    with pytest.raises(NotFoundError):
        resolve_dataset_path("loop.jsonl", home)


def test_state_folder_behind_a_link_works(home: Path) -> None:
    link = home.parent / "link"
    link.symlink_to(home)
    assert resolve_dataset_path("faq.jsonl", link) == (home / "datasets" / "faq.jsonl").resolve()


def test_what_is_no_file_is_not_found(home: Path) -> None:
    os.mkfifo(home / "datasets" / "pipe")
    for name in ("none.jsonl", "shop", "pipe", "faq.jsonl/x", "FAQ.jsonl"):
        with pytest.raises(NotFoundError) as caught:
            resolve_dataset_path(name, home)
        assert (caught.value.status, caught.value.code) == (404, "dataset_not_found")
    with pytest.raises(NotFoundError):
        resolve_dataset_path("faq.jsonl", home / "none")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.sampled_from("./\\~ aá%\x00\u2024\uff0f-") | st.characters(), max_size=12))
def test_any_name_gives_a_file_inside_or_a_refusal(home: Path, name: str) -> None:
    try:
        path = resolve_dataset_path(name, home)
    except InvalidRequestError:
        return
    assert path.is_relative_to((home / "datasets").resolve())
