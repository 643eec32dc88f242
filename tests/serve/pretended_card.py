"""A Ray cluster that pretends one card: `main` deploys the 4060 Ti's profile and prints what became of it as JSON.

Everything is real up to the last step: profile, builders, the model host, Serve, the placement of every resource that Ray is
asked for. Only the engines, which need the card itself, are replaced.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from aihub.core.health import PartHealth
from aihub.core.profiles import EmbeddingsProfile, load_profile
from aihub.models.memory.host import ModelSpec
from aihub.models.memory.planner import load_shapes
from aihub.models.memory.requirement import GIB, MemoryRequirement
from aihub.models.memory.vision import VisionSupport
from deployments import llm_app
from deployments.engine_start import EngineOptions
from deployments.engine_state import engine_error
from deployments.llm import LLMDeployment
from training.launch import scale

PROFILE = "rtx4060ti"


class PretendedLLM(LLMDeployment):
    """Everything of the replica but the engine; the folder of the model says how its start goes."""

    async def _start_engine(self, engine: EngineOptions) -> Any:
        tries = Path(engine.source) / "tries"
        count = int(tries.read_text()) + 1 if tries.exists() else 1
        tries.write_text(str(count))
        if engine.source.endswith("broken"):
            raise engine_error("ValueError: the dtype float8 is not supported")
        if engine.source.endswith("shaky") and count == 1:
            raise engine_error("TimeoutError: the card did not answer")
        self._engine = engine
        return None

    async def set_generation_defaults(self, defaults: dict[str, Any]) -> None:
        pass

    async def _warm_up(self) -> None:
        pass

    async def health(self) -> PartHealth:
        return PartHealth("ok")

    async def check_health(self) -> None:
        pass

    async def process_ids(self) -> list[int]:
        return [os.getpid()]

    async def seen(self) -> dict[str, Any]:
        return {"cards": os.environ.get("CUDA_VISIBLE_DEVICES"), "arguments": self._engine.arguments}


class PretendedEmbeddings:
    async def __init__(self, model_path: str, model_id: str, device: str, profile: EmbeddingsProfile) -> None:
        pass

    async def seen(self) -> dict[str, Any]:
        return {"cards": os.environ.get("CUDA_VISIBLE_DEVICES")}


def spec(folder: Path, name: str, *, weights_gib: float, kv_gib: float, vision: VisionSupport | None = None) -> ModelSpec:
    path = folder / name
    path.mkdir(exist_ok=True)
    requirement = MemoryRequirement(int(weights_gib * GIB), int(kv_gib * GIB), GIB)
    return ModelSpec(name, f"local:{name}", path, "cuda:0", requirement, context_tokens=4096, max_num_seqs=16, vision=vision)


async def try_start(host: Any, model: ModelSpec) -> dict[str, Any]:
    began_s = time.monotonic()
    try:
        await host.start(model)
    except Exception as error:  # noqa: BLE001  # the test looks at what it is
        outcome: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    else:
        outcome = {"error": None}
    tries = model.path / "tries"
    return outcome | {"seconds": time.monotonic() - began_s, "tries": int(tries.read_text()) if tries.exists() else 0}


async def deploy(folder: Path) -> dict[str, Any]:
    from deployments.model_host import ServeModelHost

    host = ServeModelHost(load_profile(PROFILE), lambda _: {})
    told: dict[str, Any] = {}
    sees = load_shapes()["hf:Qwen/Qwen2.5-VL-3B-Instruct-AWQ"].vision(4096)
    for model in (
        spec(folder, "first", weights_gib=5.6, kv_gib=2.8),
        spec(folder, "second", weights_gib=2.0, kv_gib=1.0, vision=sees),
        spec(folder, "broken", weights_gib=1.0, kv_gib=1.0),
        spec(folder, "shaky", weights_gib=1.0, kv_gib=1.0),
    ):
        told[model.model_id] = await try_start(host, model)
    for model_id in ("first", "second"):
        # Not by the host, which waits two seconds: the first call to a replica takes longer on a busy machine.
        handle = await asyncio.to_thread(serve.get_app_handle, llm_app.app_name(model_id))
        told[model_id] |= await handle.seen.remote()
        told[model_id]["max_images"] = (await handle.model_info.remote()).max_images
    told["running"] = sorted(await host.running())
    await host.stop("broken")
    await host.stop("second")
    told["left"] = sorted(await host.running())
    llm_app.GPU_TICKET = 1.0 + ray.cluster_resources()["GPU"]
    told["elsewhere"] = await try_start(host, spec(folder, "elsewhere", weights_gib=1.0, kv_gib=1.0))
    return told


def place_training(workers: int) -> list[str | None]:
    """Reserve what Ray Train would for a training, and return which cards its workers are shown."""
    scaling, _ = scale(workers, cards=int(ray.cluster_resources()["GPU"]))
    bundles = [dict(scaling.resources_per_worker or {}) for _ in range(scaling.num_workers)]
    group = placement_group(bundles, strategy=scaling.placement_strategy)
    try:
        assert group.wait(30), f"{bundles} were not placed"
        places = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number) for number in range(workers)]
        options = {"num_cpus": bundles[0]["CPU"], "num_gpus": bundles[0]["GPU"]}
        seeing = [ray.remote(shown_cards).options(scheduling_strategy=place, **options).remote() for place in places]
        cards: list[str | None] = ray.get(seeing, timeout=60)
        return cards
    finally:
        remove_placement_group(group)


def shown_cards() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def main() -> None:
    folder = Path(sys.argv[1])
    ray.init(num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False, namespace="serve")
    import deployments.embeddings
    import deployments.llm
    from deployments.app import AppArgs, build_embeddings

    deployments.llm.LLMDeployment = PretendedLLM
    deployments.embeddings.EmbeddingsDeployment = PretendedEmbeddings
    try:
        serve.run(build_embeddings(AppArgs(profile=PROFILE)), name="embeddings", route_prefix=None)
        told = asyncio.run(deploy(folder))
        told["embeddings"] = serve.get_app_handle("embeddings").seen.remote().result()
        told["gpus_left"] = ray.available_resources().get("GPU")
        told["trainings"] = [place_training(workers) for workers in (1, 2)]
        sys.stdout.write(f"TOLD {json.dumps(told)}\n")
    finally:
        serve.shutdown()
        ray.shutdown()
