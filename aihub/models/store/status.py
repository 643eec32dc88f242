"""Catalogue, findings, installs and checks put together: the state of each model."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from aihub.models.keys import PROVIDERS, ModelKey
from aihub.models.store.catalogue import Catalogue, CatalogueEntry
from aihub.models.store.detection import DetectedModel, Detection
from aihub.models.store.installs import Install
from aihub.models.store.reports import ModelDetail, RegistryHealth, RegistryStatus, UseCount

LOW_DISK_BYTES = 1 * 2**30

State = Literal["available", "cached", "damaged", "missing"]


def describe_status(
    catalogue: Catalogue, detection: Detection, installs: Sequence[Install], validations: Mapping[str, Mapping[str, Any]]
) -> RegistryStatus:
    """Return the state of every model of the catalogue and of every other model that is here.

    Args:
        catalogue: The known models.
        detection: What is here.
        installs: All installed versions.
        validations: The newest check of each model, by key.
    """
    found: dict[ModelKey, list[DetectedModel]] = {}
    for model in detection.models:
        found.setdefault(model.key, []).append(model)
    versions: dict[ModelKey, list[Install]] = {}
    for install in installs:
        versions.setdefault(install.key, []).append(install)
    keys = sorted({*(entry.key for entry in catalogue.entries), *found})
    details = {
        str(key): _describe(key, catalogue.get(key), found.get(key, []), versions.get(key, []), validations.get(str(key)))
        for key in keys
    }
    available = {name for name, detail in details.items() if detail.state == "available"}
    required = [str(entry.key) for entry in catalogue.required]
    missing = [key for key in required if key not in available]
    return RegistryStatus(
        total_models=len(details),
        available_models=len(available),
        required_models=len(required),
        missing_required=len(missing),
        missing_required_keys=missing,
        models_by_type={
            provider: [name for name, detail in details.items() if detail.provider == provider] for provider in PROVIDERS
        },
        models_by_use=_count_uses(details, available),
        model_details=details,
    )


def describe_health(status: RegistryStatus, disk_free_bytes: int) -> RegistryHealth:
    """Return what is wrong with what the hub needs."""
    problems = [f"{key} is missing" for key in status.missing_required_keys]
    problems += [f"{key} failed its last check" for key, item in status.model_details.items() if item.state == "damaged"]
    if disk_free_bytes < LOW_DISK_BYTES:
        problems.append(f"only {disk_free_bytes / 2**20:.0f} MiB of disk are free")
    return RegistryHealth(
        status="degraded" if problems else "ok",
        missing_required=status.missing_required_keys,
        problems=problems,
        disk_free_bytes=disk_free_bytes,
    )


def _describe(
    key: ModelKey,
    entry: CatalogueEntry | None,
    found: Sequence[DetectedModel],
    versions: Sequence[Install],
    validation: Mapping[str, Any] | None,
) -> ModelDetail:
    usable = [model for model in found if model.source != "hf_cache"]
    installed = [model for model in usable if model.source == "installs"]
    best = next(iter([*installed, *usable, *found]), None)
    state: State = "available" if usable else "cached" if found else "missing"
    if usable and validation is not None and _is_still_damaged(validation, versions):
        state = "damaged"
    return ModelDetail(
        key=str(key),
        model_id=entry.model_id if entry else None,
        title=entry.title if entry else None,
        provider=key.provider,
        types=list(entry.types) if entry else _guess_types(key),
        required=entry is not None and entry.required,
        state=state,
        source=best.source if best else None,
        size_bytes=(best.size_bytes if best else None) or (entry.size_bytes if entry else None),
        languages=list(entry.languages) if entry else [],
        context_tokens=entry.context_tokens if entry else None,
        licence=entry.licence if entry else None,
        digest=best.digest if best else None,
        pinned=any(install.pinned for install in versions),
        versions=len(versions),
        last_validation=dict(validation) if validation is not None else None,
    )


def _is_still_damaged(validation: Mapping[str, Any], versions: Sequence[Install]) -> bool:
    """Whether the last check found damage, and nothing was installed since."""
    installed_at = max((install.installed_at for install in versions if install.is_current), default=0.0)
    return validation.get("integrity") == "bad" and float(validation.get("at", 0.0)) > installed_at


def _guess_types(key: ModelKey) -> list[str]:
    """Type of a model outside of the catalogue; whether a folder holds a chat model shows when it is loaded."""
    return ["speech"] if key.provider == "vosk" else ["chat"]


def _count_uses(details: Mapping[str, ModelDetail], available: set[str]) -> dict[str, UseCount]:
    counts: dict[str, UseCount] = {}
    for kind in sorted({kind for detail in details.values() for kind in detail.types}):
        names = [name for name, detail in details.items() if kind in detail.types]
        counts[kind] = UseCount(total=len(names), available=sum(name in available for name in names))
    return counts
