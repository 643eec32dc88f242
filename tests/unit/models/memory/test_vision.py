"""What images take of a model, by the config.json of real architectures."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import load_profile
from aihub.models.memory import vision as vision_module
from aihub.models.memory.planner import SMALL_BATCH, load_shapes
from aihub.models.memory.requirement import GIB, requirement_of
from aihub.models.memory.vision import MAX_IMAGES, read_vision, vision_of_config
from aihub.models.store.catalogue import load_catalogue
from tests.unit.models.memory.test_installed_models import CONFIG, Machine
from tests.unit.models.memory.test_requirement import QWEN_7B

QWEN_VISION = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "patch_size": 14, "spatial_merge_size": 2}
QWEN_VL = QWEN_7B | {"model_type": "qwen2_5_vl", "vision_config": QWEN_VISION}
SMOLVLM = {
    "model_type": "idefics3",
    "scale_factor": 4,
    "text_config": CONFIG,
    "vision_config": {"hidden_size": 768, "image_size": 512, "patch_size": 16},
}
GEMMA = {
    "model_type": "gemma3",
    "mm_tokens_per_image": 256,
    "text_config": CONFIG,
    "vision_config": {"hidden_size": 1152, "intermediate_size": 4304, "image_size": 896, "patch_size": 14},
}
LLAVA = {
    "model_type": "llava",
    "text_config": CONFIG,
    "vision_config": {"hidden_size": 1024, "image_size": 336, "patch_size": 14},
}
MISTRAL = {
    "model_type": "mistral3",
    "spatial_merge_size": 2,
    "text_config": CONFIG,
    "vision_config": {
        "model_type": "pixtral",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "image_size": 1540,
        "patch_size": 14,
    },
}
INTERNVL = {
    "model_type": "internvl",
    "downsample_ratio": 0.5,
    "text_config": CONFIG,
    "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "image_size": [448, 448], "patch_size": [14, 14]},
}
LLAVA_NEXT = LLAVA | {"model_type": "llava_next", "image_grid_pinpoints": [[336, 672], [672, 672]]}
SEES = CONFIG | {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "vision_config": LLAVA["vision_config"],
}


def write_processor(folder: Path, settings: dict[str, Any], name: str = "preprocessor_config.json") -> Path:
    (folder / name).write_text(json.dumps(settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("config", "context_tokens", "image_tokens"),
    [
        (QWEN_VL, 16384, 1024),
        (QWEN_VL, 2048, 512),
        (SMOLVLM, 4096, 10 * 72),
        (SMOLVLM, 16384, 10 * 72),
        (GEMMA, 16384, 256),
        (LLAVA, 16384, 24 * 24),
        (LLAVA | {"vision_config": LLAVA["vision_config"] | {"image_size": [336, 336]}}, 16384, 24 * 24),
        ({name: value for name, value in GEMMA.items() if name != "mm_tokens_per_image"}, 16384, 256),
        (MISTRAL, 16384, 31 * 32),
        (MISTRAL, 4096, 31 * 32),
        (MISTRAL, 2048, 22 * 23),
    ],
)
def test_tokens_of_the_largest_image_are_those_of_the_architecture(
    config: dict[str, Any], context_tokens: int, image_tokens: int
) -> None:
    vision = vision_of_config(config, context_tokens=context_tokens)
    assert image_tokens <= vision.image_tokens <= image_tokens + 8
    assert vision.max_images == MAX_IMAGES


def test_pixels_are_bounded_where_an_image_may_have_any_size() -> None:
    qwen = vision_of_config(QWEN_VL, context_tokens=16384)
    assert qwen.processor_arguments == {"size": {"shortest_edge": 4 * 28 * 28, "longest_edge": 1024 * 28 * 28}}
    assert vision_of_config(SMOLVLM, context_tokens=4096).processor_arguments == {"size": {"longest_edge": 3 * 512}}
    assert vision_of_config(MISTRAL, context_tokens=12000).processor_arguments == {"size": {"longest_edge": 31 * 28}}
    assert vision_of_config(LLAVA, context_tokens=4096).processor_arguments == {}


@pytest.mark.parametrize(("width", "height"), [(4000, 4000), (4000, 30), (868, 867), (1700, 2300), (1, 1)])
def test_image_processor_of_mistral_stays_below_what_is_counted(width: int, height: int) -> None:
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    vision = vision_of_config(MISTRAL, context_tokens=4096)
    prepared = PixtralImageProcessorPil()(Image.new("RGB", (width, height)), patch_size=28, **vision.processor_arguments)
    rows, columns = (side // 28 for side in prepared["image_sizes"][0])
    assert 0 < rows * (columns + 1) <= vision.image_tokens


def test_bounds_of_the_models_own_processor_are_kept_where_they_are_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_module, "find_spec", lambda _: True)
    write_processor(tmp_path, {"min_pixels": 3136, "max_pixels": 100 * 28 * 28})
    qwen = read_vision(tmp_path, QWEN_VL, context_tokens=16384)
    assert qwen is not None
    assert qwen.processor_arguments == {"size": {"shortest_edge": 3136, "longest_edge": 100 * 28 * 28}}
    newer = {"image_processor": {"max_image_size": {"longest_edge": 512}, "size": {"longest_edge": 1024}}}
    smol = read_vision(write_processor(tmp_path, newer, "processor_config.json"), SMOLVLM, context_tokens=16384)
    assert smol is not None
    assert smol.processor_arguments == {"size": {"longest_edge": 1024}}


def test_encoder_of_a_larger_number_type_takes_more_and_counts_into_the_requirement() -> None:
    shape = load_shapes()["hf:Qwen/Qwen2.5-VL-7B-Instruct-AWQ"].shape
    vision = vision_of_config(QWEN_VL, context_tokens=16384)
    assert 0.2 * GIB < vision.encoder_bytes < 0.6 * GIB
    assert vision_of_config(QWEN_VL, context_tokens=16384, value_bytes=4).encoder_bytes > vision.encoder_bytes
    numbers: dict[str, Any] = {"context_tokens": 16384, "max_num_seqs": 4}
    for device, cache_bytes in (("cuda:0", 0), ("cpu", vision_module.CACHE_BYTES)):
        blind = requirement_of(GIB, shape, device=device, **numbers)
        seeing = requirement_of(GIB, shape, device=device, vision=vision, **numbers)
        assert seeing.total_bytes - blind.total_bytes == vision.encoder_bytes + cache_bytes


def test_folder_that_reads_text_only_has_no_vision(tmp_path: Path) -> None:
    assert read_vision(tmp_path, CONFIG, context_tokens=4096) is None
    assert read_vision(tmp_path, CONFIG | {"vision_config": None}, context_tokens=4096) is None


def test_missing_package_of_a_processor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_module, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="torchvision"):
        read_vision(tmp_path, QWEN_VL, context_tokens=16384)
    with pytest.raises(ConfigurationError, match="torchvision and num2words"):
        read_vision(tmp_path, SMOLVLM | {"model_type": "smolvlm"}, context_tokens=16384)
    assert read_vision(tmp_path, SMOLVLM, context_tokens=4096) is not None


def doubt(folder: Path, config: dict[str, Any], context_tokens: int = 4096) -> str:
    """Why a model with an image encoder is served without images."""
    vision = read_vision(folder, config, context_tokens=context_tokens)
    assert vision is not None
    assert (vision.max_images, vision.image_tokens, vision.encoder_bytes) == (0, 0, 0)
    assert vision.doubt is not None
    return vision.doubt


@pytest.mark.parametrize("wrong", [{"patch_size": 0}, {"patch_size": "14"}, {"image_size": True}, {"image_size": [336, 448]}])
def test_wrong_dimension_is_named_and_costs_the_images_alone(tmp_path: Path, wrong: dict[str, Any]) -> None:
    encoder = {"hidden_size": 1024, "image_size": 336, "patch_size": 14} | wrong
    assert next(iter(wrong)) in doubt(tmp_path, LLAVA | {"vision_config": encoder})


def test_model_whose_images_fill_the_context_reads_text_only(tmp_path: Path) -> None:
    assert doubt(tmp_path, LLAVA, 512) == "an image takes 584 tokens, and the context has 512 in all"


@pytest.mark.parametrize(
    "config",
    [INTERNVL, LLAVA_NEXT, LLAVA | {"vision_config": MISTRAL["vision_config"]}, GEMMA | {"model_type": "gemma3n"}],
    ids=["internvl", "llava_next", "llava with pixtral", "gemma3n"],
)
def test_kind_that_nobody_counted_reads_text_only(tmp_path: Path, config: dict[str, Any]) -> None:
    assert f"{config['model_type']}" in doubt(tmp_path, config)
    assert "not among the kinds that are known: gemma3, idefics3, llava, mistral3" in doubt(tmp_path, config)


def test_settings_of_an_image_processor_that_are_no_sizes_cost_the_images_alone(tmp_path: Path) -> None:
    assert "int" in doubt(write_processor(tmp_path, {"size": 1540}), MISTRAL)


def test_crops_that_the_image_processor_cuts_are_a_doubt(tmp_path: Path) -> None:
    assert "crops" in doubt(write_processor(tmp_path, {"size": {"height": 896}, "do_pan_and_scan": True}), GEMMA)


def test_folder_served_without_images_is_listed_needs_nothing_for_them_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine(tmp_path)
    machine.put("blind")
    machine.put("next", SEES | {"model_type": "llava_next"})
    models = machine.installed.read()
    machine.installed.read()
    assert (models["next"].types, models["next"].spec.requirement) == (("chat",), models["blind"].spec.requirement)
    assert caplog.text.count("next is served without images") == 1
    assert "llava_next" in caplog.text


def test_folder_that_sees_is_for_vision_and_has_no_adapters(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.put("seeing", SEES)
    machine.put("blind")
    models = machine.installed.read()
    assert (models["blind"].types, models["blind"].spec.vision) == (("chat",), None)
    seeing = models["seeing"]
    assert seeing.types == ("chat", "vision")
    assert seeing.spec.vision is not None
    assert "see" in (seeing.spec.adapter_refusal or "")
    assert seeing.spec.requirement.total_bytes > models["blind"].spec.requirement.total_bytes


def test_folder_whose_engine_cannot_take_images_here_is_not_served_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vision_module, "find_spec", lambda _: None)
    machine = Machine(tmp_path)
    machine.put("qwen-vl", CONFIG | QWEN_VL | {"architectures": ["Qwen2_5_VLForConditionalGeneration"]})
    assert machine.ids() == ["smollm2-135m-instruct"]
    assert "torchvision" in caplog.text


@pytest.mark.parametrize(
    "entry", [entry for entry in load_catalogue().entries if entry.provider == "hf" and "vision" in entry.types]
)
def test_memory_the_catalogue_names_covers_what_a_small_batch_takes(entry: Any) -> None:
    known = load_shapes()[str(entry.key)]
    for profile_name, device, stated_gb in (("rtx4060ti", "cuda:0", entry.min_vram_gb), ("cpu", "cpu", entry.min_ram_gb)):
        if device[:4].rstrip(":") not in entry.devices:
            continue
        llm = load_profile(profile_name).llm
        context_tokens = min(llm.max_model_len, entry.context_tokens)
        need = requirement_of(
            entry.size_bytes,
            known.shape,
            context_tokens=context_tokens,
            max_num_seqs=SMALL_BATCH,
            device=device,
            kv_cache_bytes=llm.cpu_kv_cache_gb * GIB if llm.cpu_kv_cache_gb else None,
            vision=known.vision(context_tokens),
        )
        assert stated_gb - 1 < need.total_bytes / GIB <= stated_gb, (entry.model_id, device)
