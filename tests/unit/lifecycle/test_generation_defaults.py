import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from aihub.lifecycle.generation_defaults import GenerationDefaultsStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lifecycle" / "generation.json"


def test_model_without_defaults_has_none(path: Path) -> None:
    assert GenerationDefaultsStore(path).read("smollm2") == {}


def test_changes_add_up_and_none_takes_one_back(path: Path) -> None:
    store = GenerationDefaultsStore(path)
    assert store.update("smollm2", {"temperature": 0.2, "top_k": 40}) == {"temperature": 0.2, "top_k": 40}
    assert store.update("smollm2", {"top_k": None, "max_tokens": 9}) == {"temperature": 0.2, "max_tokens": 9}
    assert store.read("smollm2") == {"temperature": 0.2, "max_tokens": 9}


def test_each_model_has_its_own_and_a_new_store_reads_them(path: Path) -> None:
    GenerationDefaultsStore(path).update("mô-hình", {"temperature": 0.0})
    GenerationDefaultsStore(path).update("other", {"temperature": 1.0})
    assert GenerationDefaultsStore(path).read("mô-hình") == {"temperature": 0.0}
    assert GenerationDefaultsStore(path).read("other") == {"temperature": 1.0}


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"smollm2": 3}', "\x00"])
def test_damaged_file_counts_as_none_and_can_be_written_again(path: Path, content: str) -> None:
    path.parent.mkdir()
    path.write_text(content, encoding="utf-8")
    store = GenerationDefaultsStore(path)
    assert store.read("smollm2") == {}
    store.update("smollm2", {"top_p": 0.5})
    assert json.loads(path.read_text(encoding="utf-8")) == {"smollm2": {"top_p": 0.5}}


def test_changes_of_several_threads_are_all_kept(path: Path) -> None:
    store = GenerationDefaultsStore(path)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda number: store.update(f"model-{number}", {"top_k": number}), range(24)))
    assert [store.read(f"model-{number}") for number in range(24)] == [{"top_k": number} for number in range(24)]
