import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aihub.core.profiles import load_profile
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.planner import load_shapes
from aihub.models.memory.requirement import GIB, MemoryRequirement
from aihub.models.memory.vision import VisionSupport
from deployments.llm_app import app_name, engine_environment, engine_kwargs, gpu_share, model_of


def spec(device: str = "cuda:0", *, total_gib: float = 4.0) -> ModelSpec:
    requirement = MemoryRequirement(int((total_gib - 2) * GIB), GIB, GIB)
    return ModelSpec("a", "local:a", Path("/models/a"), device, requirement, context_tokens=4096, max_num_seqs=16)


@given(st.text(alphabet="ab-/~01._:", min_size=1, max_size=12))
def test_application_names_its_model_whatever_the_id_holds(model_id: str) -> None:
    assert model_of(app_name(model_id)) == model_id
    assert "/" not in app_name(model_id)


def test_ids_with_dashes_and_slashes_are_different_applications() -> None:
    assert app_name("shop--bot") != app_name("shop/bot")
    assert model_of("llm-shop--bot") == "shop--bot"


def test_application_of_another_part_has_no_model() -> None:
    assert model_of("embeddings") is None


def test_share_is_of_the_card_that_is_there_and_not_of_the_profiles() -> None:
    profile = load_profile("rtx4060ti")
    assert gpu_share(spec(), profile) == 0.25
    assert gpu_share(spec(), profile, card_bytes=8 * GIB) == 0.5
    assert gpu_share(spec("cpu"), profile) == 0.0


def test_model_on_a_card_may_sleep_and_one_on_a_cpu_may_not() -> None:
    llm = load_profile("rtx4060ti").llm
    assert engine_kwargs(spec(), llm, 0.25)["enable_sleep_mode"] is True
    assert "enable_sleep_mode" not in engine_kwargs(spec("cpu"), load_profile("cpu").llm, 0.0)


def test_what_engines_compile_is_kept_in_the_given_folder_unless_the_operator_chose_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CACHE_ROOT", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    environment = engine_environment("cuda:0", tmp_path)
    assert environment["VLLM_CACHE_ROOT"] == str(tmp_path / "vllm")
    assert "TRITON_CACHE_DIR" not in environment
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment


def test_process_that_decides_on_loads_imports_neither_vllm_nor_torch() -> None:
    code = "import deployments.models, deployments.llm, sys; print(sorted({'vllm', 'torch'} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_engine_is_told_of_adapters_where_the_model_can_have_some() -> None:
    llm = load_profile("cpu").llm
    assert llm.adapters is not None
    without = engine_kwargs(spec("cpu"), llm, 0.0)
    assert not any("lora" in name for name in without)
    kwargs = engine_kwargs(replace(spec("cpu"), adapter_modules=("q_proj", "up_proj")), llm, 0.0)
    assert {name: value for name, value in kwargs.items() if name not in without} == {
        "enable_lora": True,
        "max_loras": llm.adapters.max_loaded,
        "max_lora_rank": llm.adapters.max_rank,
        "lora_target_modules": ["q_proj", "up_proj"],
    }


@pytest.mark.parametrize("key", ["hf:Qwen/Qwen2.5-VL-3B-Instruct-AWQ", "hf:Qwen/Qwen3-VL-8B-Instruct-FP8"])
def test_engine_of_a_model_that_sees_takes_bounded_images_and_fetches_none(key: str) -> None:
    llm, vision = load_profile("rtx4060ti").llm, load_shapes()[key].vision(16384)
    assert vision is not None
    blind = engine_kwargs(spec(), llm, 0.25)
    assert not any("mm" in name or "media" in name for name in blind)
    kwargs = engine_kwargs(replace(spec(), vision=vision), llm, 0.25)
    unit_pixels = (28 if "2.5" in key else 32) ** 2
    assert {name: value for name, value in kwargs.items() if name not in blind} == {
        "limit_mm_per_prompt": {"image": 16, "video": 0, "audio": 0},
        "mm_processor_cache_gb": 0.25,
        "mm_processor_kwargs": {"size": {"shortest_edge": 4 * unit_pixels, "longest_edge": 1024 * unit_pixels}},
        "allowed_media_domains": ["none.invalid"],
    }


def test_engine_of_a_model_whose_images_cannot_be_counted_reads_text_only() -> None:
    kwargs = engine_kwargs(replace(spec(), vision=VisionSupport(0, max_images=0)), load_profile("rtx4060ti").llm, 0.25)
    assert kwargs["limit_mm_per_prompt"] == {"image": 0, "video": 0, "audio": 0}
    assert kwargs["mm_processor_cache_gb"] == 0


def test_engine_follows_no_redirects_and_opens_no_image_of_a_hundred_megapixels() -> None:
    environment = engine_environment("cpu", None)
    assert environment["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert int(environment["VLLM_MAX_IMAGE_PIXELS"]) < 100_000_000
