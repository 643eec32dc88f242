"""Wire types of `/api/v1/system/metrics`: figures of one machine, now."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from aihub.core.schemas import ResponseModel


class ProcessorFigures(ResponseModel):
    cores: int = Field(description="Logical cores that the hub may use.")
    load: list[float] = Field(description="Processes that ran or waited for a core: means of 1, 5 and 15 minutes.")
    utilisation_percent: float = Field(description="Of all cores of the machine, since this was asked last of this process.")


class MemoryFigures(ResponseModel):
    total_bytes: int = Field(description="Of the machine, or what its container may use where that is less.")
    used_bytes: int = Field(description="By all programs, without what is only cached.")
    available_bytes: int = Field(description="That programs can still have without swapping.")


class DiskFigures(ResponseModel):
    total_bytes: int
    used_bytes: int
    free_bytes: int


class CardFigures(ResponseModel):
    """One NVIDIA card; null is what its driver does not tell."""

    name: str
    uuid: str
    memory_total_bytes: int
    memory_used_bytes: int
    utilisation_percent: int | None = Field(description="Of the driver's last sampling period, at most a second.")
    temperature_celsius: int | None
    power_watts: float | None


class ProcessFigures(ResponseModel):
    memory_bytes: int = Field(description="Resident memory of the process that answers; pages shared with others count.")
    children: int = Field(description="Processes that it has started and that live: parsers and decoders.")


class ModelFigures(ResponseModel):
    """One installed local model."""

    model_id: str
    state: str
    device: str
    memory_bytes: int | None = Field(description="What it was last seen to hold of its device; null where it is not in memory.")
    in_flight: int
    waiting: int = Field(description="Requests that wait for it to be loaded.")
    tokens_per_s: float | None = Field(description="Of one stream, as clients saw it lately.")


class PeriodFigures(ResponseModel):
    requests: int
    prompt_tokens: int
    completion_tokens: int


class TenantFigures(ResponseModel):
    """Requests of a tenant that have ended; a row is counted within a second of its end."""

    tenant: str
    last_minute: PeriodFigures
    last_hour: PeriodFigures


class SystemReport(ResponseModel):
    object: Literal["system.metrics"] = "system.metrics"
    at: datetime
    node: str = Field(
        description="Name of the machine that these are figures of: the one that the answering part of the hub runs on, in a "
        "cluster the head node as a rule. Models and tenants are those of the whole hub."
    )
    cpu: ProcessorFigures | None
    memory: MemoryFigures | None
    disk: DiskFigures | None = Field(description="Of the state folder.")
    gpus: list[CardFigures] | None = Field(description="All of this machine; empty without an NVIDIA driver.")
    process: ProcessFigures | None
    models: list[ModelFigures] | None
    tenants: list[TenantFigures] | None
    missing: dict[str, str] = Field(description="Why a part is null, by its name: it did not answer in time, or is away.")
