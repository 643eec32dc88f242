"""One Serve application per local chat model: `llm-<model>`, on vLLM."""

import math
import os
import time
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application

from aihub.chat.service import ChatModelInfo
from aihub.core.hardware import has_bfloat16_units
from aihub.core.model_folder import read_special_tokens
from aihub.core.profiles import LLMProfile, Profile
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.vision import CACHE_BYTES, VisionSupport
from deployments.options import serve_options

APP_PREFIX = "llm-"
HEALTH_TIMEOUT_S = 40.0

GPU_TICKET = 0.01
"""GPUs a model asks Ray for, so that Ray places it beside a card and names that card to it. How much of the card each model
may take is the ledger's to say: Ray would hold a fraction for a model that sleeps, and knows nothing of bytes."""

MAX_IMAGE_PIXELS = 2**25
"""Of one image before the engine makes it smaller; what comes over the API has been made smaller by then."""

CACHES = {
    "VLLM_CACHE_ROOT": "vllm",
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
    "CUDA_CACHE_PATH": "cuda",
}
"""Folders of what engines compile, by the variable that names each."""


def app_name(model_id: str) -> str:
    """Return the Serve application of a model. A slash would end a path in Serve's own API; it is escaped as in RFC 6901."""
    return APP_PREFIX + model_id.replace("~", "~0").replace("/", "~1")


def model_of(name: str) -> str | None:
    """Return the model of an application, or None for applications of other parts."""
    if not name.startswith(APP_PREFIX):
        return None
    return name.removeprefix(APP_PREFIX).replace("~1", "/").replace("~0", "~")


def build_llm_application(
    spec: ModelSpec,
    profile: Profile,
    defaults: dict[str, Any],
    *,
    card_bytes: int | None = None,
    cache: Path | None = None,
    home: Path | None = None,
) -> Application:
    """Build the application of a verified local model folder; imports no vLLM.

    Args:
        spec: The model.
        profile: How models are run here.
        defaults: Generation defaults, see `LLMDeployment`.
        card_bytes: Memory of the card as its driver tells it; the profile's figure when None.
        cache: Folder where the engine keeps what it has compiled.
        home: State folder with the adapters of models.
    """
    from deployments.engine_start import EngineOptions
    from deployments.llm import LLMDeployment

    llm = profile.llm
    engine = EngineOptions(
        source=str(spec.path),
        device=spec.device,
        arguments=engine_kwargs(spec, llm, gpu_share(spec, profile, card_bytes)),
        environment=engine_environment(spec.device, cache),
        home=home if spec.adapter_modules else None,
    )
    options = serve_options(
        llm,
        name="LLM:" + spec.model_id.replace("/", "--").replace(".", "_"),
        health_check_period_s=5.0,
        health_check_timeout_s=HEALTH_TIMEOUT_S,
        # A second try covers what passes by itself.
        max_constructor_retry_count=2,
        ray_actor_options={"num_cpus": llm.num_cpus, "num_gpus": 0.0 if spec.device == "cpu" else GPU_TICKET},
    )
    model_info = ChatModelInfo(
        model_id=spec.model_id,
        context_tokens=spec.context_tokens,
        created=spec.created or int(time.time()),
        special_tokens=read_special_tokens(spec.path),
        max_images=spec.vision.max_images if spec.vision is not None else 0,
    )
    return serve.deployment(LLMDeployment, **options).bind(engine, model_info=model_info, defaults=defaults)


def gpu_share(spec: ModelSpec, profile: Profile, card_bytes: int | None = None) -> float:
    """Return the part of the card a model is given, 0 on a CPU; rounded up to whole hundredths.

    Args:
        card_bytes: Memory of the card; the profile's figure when None.
    """
    if spec.device == "cpu":
        return 0.0
    total_bytes = card_bytes or profile.gpu_memory_gb * 2**30
    return min(math.ceil(100 * spec.requirement.total_bytes / total_bytes) / 100, 1.0)


def engine_kwargs(spec: ModelSpec, llm: LLMProfile, share: float) -> dict[str, Any]:
    """Return vLLM's engine arguments of a model."""
    kwargs: dict[str, Any] = {
        "max_model_len": spec.context_tokens,
        "max_num_seqs": spec.max_num_seqs,
        "dtype": engine_dtype(llm, spec.device),
        "enforce_eager": llm.enforce_eager,
        "trust_remote_code": False,
        "worker_extension_cls": "deployments.engine_worker.WorkerReport",
        # Given in bytes, vLLM takes just that; else it takes whatever share of the device is free, or refuses to start.
        "kv_cache_memory_bytes": spec.requirement.kv_cache_bytes,
    }
    if spec.tool_call_parser is not None:
        kwargs |= {"enable_auto_tool_choice": True, "tool_call_parser": spec.tool_call_parser}
    if share:
        kwargs |= {"gpu_memory_utilization": share, "enable_sleep_mode": True}
    if spec.quantization is not None:
        kwargs["quantization"] = spec.quantization
    if spec.adapter_modules and llm.adapters is not None:
        kwargs |= {
            "enable_lora": True,
            "max_loras": llm.adapters.max_loaded,
            "max_lora_rank": llm.adapters.max_rank,
            "lora_target_modules": list(spec.adapter_modules),
        }
    return kwargs | (vision_kwargs(spec.vision) if spec.vision is not None else {})


def vision_kwargs(vision: VisionSupport) -> dict[str, Any]:
    """Return vLLM's engine arguments of a model with an image encoder; frames of a video come as images.

    With none allowed vLLM serves text only.
    """
    return {
        "limit_mm_per_prompt": {"image": vision.max_images, "video": 0, "audio": 0},
        "mm_processor_cache_gb": CACHE_BYTES / 2**30 if vision.max_images else 0,
        "mm_processor_kwargs": dict(vision.processor_arguments) or None,
        # An empty list allows every domain. Addresses are refused before vLLM sees them; these never resolve (RFC 6761).
        "allowed_media_domains": ["none.invalid"],
    }


def engine_dtype(llm: LLMProfile, device: str) -> str:
    """Return vLLM's `dtype` for a profile on this machine."""
    if llm.dtype == "auto" and device == "cpu":
        return "bfloat16" if has_bfloat16_units() else "float32"
    return llm.dtype


def engine_environment(device: str, cache: Path | None) -> dict[str, str]:
    """Return the variables an engine is started with.

    Args:
        device: `cpu` or `cuda:<n>`.
        cache: Folder for compiled graphs and kernels, so that the next load finds them; the libraries' own when None.
    """
    # The model folder is local and verified, so the engine never needs the network.
    environment = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    environment |= {"VLLM_MAX_IMAGE_PIXELS": str(MAX_IMAGE_PIXELS), "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0"}
    if device == "cpu":
        # vLLM then leaves the worker in the engine's process, as it does on a GPU.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if cache is not None:
        environment |= {name: str(cache / folder) for name, folder in CACHES.items() if name not in os.environ}
    return environment
