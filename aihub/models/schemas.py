"""Wire types of `/v1/models`, `/api/v1/models` and `/models`. Sizes in bytes, times as Unix seconds unless they end in `_s`.

What the registry reports is in `aihub.models.store.reports`, jobs in `aihub.models.store.downloads.orders`.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, RootModel, StringConstraints

from aihub.core.limits import AnswerTokens, MinP, Penalty, RepetitionPenalty, Temperature, TopK, TopP
from aihub.core.schemas import ClosedModel, ModelName, ResponseModel
from aihub.models.memory.state import ModelState, UnloadLevel
from aihub.models.memory.status import DeviceStatus, LifecycleStatus, ModelStatus
from aihub.models.store.downloads.orders import Job


class ModelRequest(ClosedModel):
    """One installed local model."""

    model_id: ModelName


class LoadRequest(ModelRequest):
    """Load a model; `force_reload` unloads it first, once its requests have ended."""

    force_reload: bool = False


class UnloadRequest(ModelRequest):
    """Unload a model: `sleep` keeps its weights in RAM where it can sleep (on a GPU) and is `full` elsewhere."""

    level: UnloadLevel = "sleep"


class GenerationDefaults(ClosedModel):
    """What requests to a model get where they say nothing.

    As changes, null takes a value back to the next source (environment, the model's own, profile). In answers, null is
    what no source names.
    """

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    max_tokens: AnswerTokens | None = None


class GenerationConfigRequest(ModelRequest):
    """New generation defaults of a loaded model; fields left out stay as they are."""

    generation_config: GenerationDefaults


class GenerationConfigReport(ResponseModel):
    """The generation defaults in force."""

    model_id: str
    generation_config: GenerationDefaults


class ModelReport(ResponseModel):
    """One local model now."""

    model_id: str
    key: str
    digest: str
    state: ModelState
    device: str
    pinned: bool
    default: bool = Field(description="Idle time alone does not unload it.")
    need_bytes: int = Field(description="What it is admitted for.")
    need_is_measured: bool = Field(description="Whether that is a measured peak, not an estimate.")
    used_bytes: int | None = Field(description="What it was last seen to hold of its device.")
    sleeping_bytes: int = Field(description="RAM held for its weights from its first sleep until it ends.")
    context_tokens: int
    quantization: str | None
    in_flight: int = Field(description="Requests being answered.")
    waiting: int = Field(description="Requests that wait for it to be loaded.")
    loaded_at: float | None
    last_used_at: float | None
    load_time_s: float | None = Field(description="How long the last load took.")
    tokens_per_s: float | None = Field(description="Speed of one stream, as seen lately.")
    failure: str | None
    retry_in_s: float | None = Field(description="When a failed model may be asked for again.")


class HolderReport(ResponseModel):
    """Who holds memory of a device."""

    holder: str
    size_bytes: int
    used_bytes: int | None
    fixed: bool = Field(description="Held for good by another part of the hub.")


class DeviceReport(ResponseModel):
    """One device now."""

    device: str
    total_bytes: int | None
    free_bytes: int | None
    budget_bytes: int = Field(description="What the hub may take.")
    reserved_bytes: int = Field(description="What its holders may take.")
    holders: list[HolderReport]


class LifecycleReport(ResponseModel):
    """Every installed local model and every device."""

    models: list[ModelReport]
    devices: list[DeviceReport]


class ModelReports(ResponseModel):
    """Every installed local model."""

    models: list[ModelReport]


class ModelInfo(ResponseModel):
    """A loaded model: where it runs and with which settings."""

    model_id: str
    device: str
    memory_bytes: int = Field(description="Measured where known, else reserved.")
    gpu_name: str | None = Field(default=None, description="Of the card it runs on; null on a CPU.")
    gpu_memory_allocated: float = Field(default=0.0, description="GB of the card that it holds, 0 on a CPU.")
    quantization: str | None
    weight_bits: int | None = Field(default=None, description="Of quantised weights; null for others.")
    context_tokens: int
    dtype: str | None = None
    generation_config: GenerationDefaults | None = None


class CacheReport(ResponseModel):
    """Answer to a cleared cache."""

    model_id: str
    cleared: bool


def model_info(
    status: ModelStatus, *, gpu_name: str | None, weight_bits: int | None, dtype: str, defaults: Mapping[str, Any]
) -> ModelInfo:
    """Tell of a loaded model.

    Args:
        gpu_name: Of the card it runs on.
        weight_bits: Of quantised weights.
        dtype: Of its weights in memory.
        defaults: Its generation defaults in force.
    """
    memory_bytes = status.used_bytes or status.need_bytes
    return ModelInfo(
        model_id=status.model_id,
        device=status.device,
        memory_bytes=memory_bytes,
        gpu_name=gpu_name,
        gpu_memory_allocated=0.0 if status.device == "cpu" else round(memory_bytes / 1e9, 3),
        quantization=status.quantization,
        weight_bits=weight_bits,
        context_tokens=status.context_tokens,
        dtype=dtype,
        generation_config=GenerationDefaults.model_validate(defaults),
    )


def model_report(model: ModelStatus) -> ModelReport:
    """Turn a status into its wire form."""
    return ModelReport(
        model_id=model.model_id,
        key=model.key,
        digest=model.digest,
        state=model.state,
        device=model.device,
        pinned=model.is_pinned,
        default=model.is_default,
        need_bytes=model.need_bytes,
        need_is_measured=model.is_measured,
        used_bytes=model.used_bytes,
        sleeping_bytes=model.sleeping_bytes,
        context_tokens=model.context_tokens,
        quantization=model.quantization,
        in_flight=model.in_flight,
        waiting=model.waiting,
        loaded_at=model.loaded_at,
        last_used_at=model.last_used_at,
        load_time_s=model.load_time_s,
        tokens_per_s=model.tokens_per_s,
        failure=model.failure,
        retry_in_s=model.retry_in_s,
    )


def device_report(device: DeviceStatus) -> DeviceReport:
    """Turn a status into its wire form."""
    return DeviceReport(
        device=device.device,
        total_bytes=device.total_bytes,
        free_bytes=device.free_bytes,
        budget_bytes=device.budget_bytes,
        reserved_bytes=device.reserved_bytes,
        holders=[
            HolderReport(holder=held.holder, size_bytes=held.size_bytes, used_bytes=held.used_bytes, fixed=held.is_fixed)
            for held in device.holders
        ],
    )


def lifecycle_report(status: LifecycleStatus) -> LifecycleReport:
    """Turn a status into its wire form."""
    return LifecycleReport(models=[*map(model_report, status.models)], devices=[*map(device_report, status.devices)])


class ModelObject(ResponseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(ResponseModel):
    object: Literal["list"] = "list"
    data: list[ModelObject]


KeyText = Annotated[str, StringConstraints(max_length=256)]
"""A model key as sent; `parse_key` says what is wrong with it."""

KeyTexts = Annotated[list[KeyText], Field(min_length=1, max_length=100)]


class EnsureRequest(ClosedModel):
    """Models that must be here; the required ones of the catalogue when left out."""

    models: KeyTexts | None = None


class ValidateRequest(ClosedModel):
    """Models to check; all that are here when left out. `with_load` also loads and measures each."""

    models: KeyTexts | None = None
    with_load: bool = True


class KeyRequest(ClosedModel):
    key: KeyText


class PinRequest(ClosedModel):
    """`digest` or the start of it; the version in use when left out."""

    key: KeyText
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-z:]{1,128}$")] | None = None


class ConfigureRequest(RootModel[dict[str, JsonValue]]):
    """Settings to change, by name; null returns one to its variable or default."""


class JobList(ResponseModel):
    jobs: list[Job]


class Configuration(RootModel[dict[str, Any]]):
    """The run-time settings that hold now."""
