"""What the registry answers, the same over HTTP and on the command line."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from aihub.core.hardware import Machine
from aihub.models.keys import Provider
from aihub.models.store.installs import Install
from aihub.models.store.recommendation import Recommendation


class Report(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class UseCount(Report):
    """How many models there are for one use; a model with two uses counts in both."""

    total: int
    available: int


class ModelDetail(Report):
    """One model, in the catalogue or found here.

    Attributes:
        state: `available` can be used now; `cached` lies in the Hugging Face cache and installs without a download;
            `damaged` failed its last check; `missing` is not here, or has no key configured.
        source: Where it was found.
        digest: Of the version in use.
        versions: Installed versions.
        last_validation: Result of its newest check.
    """

    key: str
    model_id: str | None = None
    title: str | None = None
    provider: str
    types: list[str]
    required: bool = False
    state: Literal["available", "cached", "damaged", "missing"]
    source: str | None = None
    size_bytes: int | None = None
    languages: list[str] = []
    context_tokens: int | None = None
    licence: str | None = None
    digest: str | None = None
    pinned: bool = False
    versions: int = 0
    last_validation: dict[str, Any] | None = None


class RegistryStatus(Report):
    """Answer of `GET /models/status`, inside of `data`.

    Attributes:
        missing_required: How many required models are missing.
        missing_required_keys: Which.
        models_by_type: Keys of all known models by where they come from; every source is there, also an empty one.
        models_by_use: Counts by what models are for.
        model_details: Every known model by its key.
    """

    total_models: int
    available_models: int
    required_models: int
    missing_required: int
    missing_required_keys: list[str]
    models_by_type: dict[Provider, list[str]]
    models_by_use: dict[str, UseCount]
    model_details: dict[str, ModelDetail]


class DetectedItem(Report):
    key: str
    source: str
    size_bytes: int | None = None
    digest: str | None = None


class SourceItem(Report):
    available: bool
    detail: str


class DetectionReport(Report):
    models: list[DetectedItem]
    sources: dict[str, SourceItem]


class ValidationReport(Report):
    """One object for each checked model, as `aihub.models.store.validation.Validation.to_json` gives it."""

    is_good: bool
    results: list[dict[str, Any]]


class VersionItem(Report):
    key: str
    digest: str
    size_bytes: int
    installed_at: float
    pinned: bool
    is_current: bool

    @classmethod
    def of(cls, install: Install) -> "VersionItem":
        """Describe an install without its place on the disk."""
        return cls(
            key=str(install.key),
            digest=install.digest,
            size_bytes=install.size_bytes,
            installed_at=install.installed_at,
            pinned=install.pinned,
            is_current=install.is_current,
        )


class CleanupReport(Report):
    removed: list[VersionItem]
    freed_bytes: int


class RecommendationItem(Report):
    key: str
    model_id: str
    title: str
    types: list[str]
    size_bytes: int | None
    fits: bool
    is_recommended: bool
    device: str | None
    reason: str

    @classmethod
    def of(cls, item: Recommendation) -> "RecommendationItem":
        """Describe what this machine can do with one model."""
        return cls(
            key=str(item.entry.key),
            model_id=item.entry.model_id,
            title=item.entry.title,
            types=list(item.entry.types),
            size_bytes=item.entry.size_bytes,
            fits=item.fits,
            is_recommended=item.is_recommended,
            device=item.device,
            reason=item.reason,
        )


class MachineItem(Report):
    ram_bytes: int
    gpu_name: str | None
    gpu_memory_bytes: int
    disk_free_bytes: int

    @classmethod
    def of(cls, machine: Machine) -> "MachineItem":
        """Describe the machine."""
        return cls(
            ram_bytes=machine.ram_bytes,
            gpu_name=machine.gpu_name,
            gpu_memory_bytes=machine.gpu_memory_bytes,
            disk_free_bytes=machine.disk_free_bytes,
        )


class RecommendationReport(Report):
    machine: MachineItem
    models: list[RecommendationItem]


class UpdateReport(Report):
    """Attributes: update_available is None where nobody can say; `detail` then says why."""

    key: str
    installed: str | None
    upstream: str | None
    update_available: bool | None
    detail: str = ""


class RegistryHealth(Report):
    """`degraded` when a required model is missing, a model failed its last check, or the disk is nearly full."""

    status: Literal["ok", "degraded"]
    missing_required: list[str] = Field(default_factory=list)
    problems: list[str] = Field(default_factory=list)
    disk_free_bytes: int
