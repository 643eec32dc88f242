import pytest

from aihub.core.hardware import GIB, Machine
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.recommendation import Recommendation, recommend

CATALOGUE = load_catalogue()
LAPTOP = Machine(ram_bytes=8 * GIB, gpu_name=None, gpu_memory_bytes=0, disk_free_bytes=100 * GIB)
BOX = Machine(ram_bytes=64 * GIB, gpu_name="RTX 4060 Ti", gpu_memory_bytes=16380 * 2**20, disk_free_bytes=500 * GIB)
TINY = Machine(ram_bytes=1 * GIB, gpu_name=None, gpu_memory_bytes=0, disk_free_bytes=100 * GIB)


def judge(machine: Machine, *, with_ollama: bool = False) -> dict[str, Recommendation]:
    return {str(item.entry.key): item for item in recommend(CATALOGUE, machine, with_ollama=with_ollama)}


def taken(machine: Machine, *, with_ollama: bool = False) -> set[str]:
    return {key for key, item in judge(machine, with_ollama=with_ollama).items() if item.is_recommended}


def test_laptop_without_a_card_gets_small_models_on_its_processor() -> None:
    assert taken(LAPTOP) == {
        "package:smollm2",
        "package:minilm",
        "hf:Qwen/Qwen2.5-1.5B-Instruct",
        "hf:HuggingFaceTB/SmolVLM-500M-Instruct",
        "hf:intfloat/multilingual-e5-small",
        "vosk:vi",
        "vosk:en",
    }
    assert judge(LAPTOP)["hf:Qwen/Qwen2.5-1.5B-Instruct"].device == "cpu"


def test_card_with_16_gb_gets_the_vietnamese_and_the_code_model() -> None:
    assert {
        "hf:phamhai/Llama-3.2-3B-Instruct-Frog",
        "hf:Qwen/Qwen2.5-7B-Instruct-AWQ",
        "hf:Qwen/Qwen2.5-Coder-7B-Instruct-AWQ",
        "hf:intfloat/multilingual-e5-small",
    } <= taken(BOX)


def test_card_with_16_gb_gets_a_model_that_sees_beside_the_embeddings() -> None:
    best = [str(item.entry.key) for item in recommend(CATALOGUE, BOX, with_ollama=False) if "best here for vision" in item.reason]
    assert best == ["hf:Qwen/Qwen2.5-VL-7B-Instruct-AWQ"]


def test_model_that_fills_the_card_fits_but_is_not_recommended() -> None:
    item = judge(BOX)["hf:openai/gpt-oss-20b"]
    assert (item.fits, item.is_recommended, item.device) == (True, False, "cuda")


def test_quantised_model_without_a_card_says_what_it_needs() -> None:
    item = judge(LAPTOP)["hf:Qwen/Qwen2.5-7B-Instruct-AWQ"]
    assert (item.fits, item.device) == (False, None)
    assert item.reason == "needs a GPU with 8 GiB"


def test_small_machine_says_both_numbers() -> None:
    assert judge(TINY)["hf:Qwen/Qwen2.5-0.5B-Instruct"].reason == "needs 4 GiB of memory, the machine has 1.0 GiB"
    assert "package:smollm2" not in taken(TINY)


def test_full_disk_is_the_reason() -> None:
    full = Machine(64 * GIB, "card", 16 * GIB, 1 * GIB)
    assert "of disk" in judge(full)["hf:Qwen/Qwen2.5-7B-Instruct-AWQ"].reason


@pytest.mark.parametrize("with_ollama", [True, False])
def test_ollama_models_fit_only_where_its_server_is(with_ollama: bool) -> None:
    assert judge(BOX, with_ollama=with_ollama)["ollama:gemma2:9b"].fits is with_ollama


def test_recommended_models_come_first_and_services_not_at_all() -> None:
    marks = [item.is_recommended for item in recommend(CATALOGUE, BOX)]
    assert marks == sorted(marks, reverse=True)
    assert not any(key.startswith(("openai:", "github:")) for key in judge(BOX))
