"""Which models of the catalogue this machine should have."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from aihub.core.hardware import GIB, Machine
from aihub.models.keys import ModelKey
from aihub.models.store.catalogue import Catalogue, CatalogueEntry, Device, ModelType

DISK_SPARE = 1.1
# A model that fills the card leaves no room for embeddings and cache beside it; it fits, but alone.
LARGEST_GPU_SHARE = 0.8
# Each token reads all weights once. At a server's 20 GB/s this is about 6 tokens a second, the least people sit through.
LARGEST_CPU_WEIGHTS_BYTES = 3_200_000_000
PACKED_FACTOR = 3

NEEDS: tuple[tuple[ModelType, str | None], ...] = (
    ("chat", "vi"),
    ("chat", "en"),
    ("code", None),
    ("vision", None),
    ("embeddings", "en"),
    ("embeddings", "vi"),
    ("speech", "vi"),
    ("speech", "en"),
)
"""What a hub is asked for: a type, and a language the model should be made for."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """What this machine can do with one model.

    Attributes:
        entry: The model.
        fits: It can run here.
        is_recommended: It is the best here for one of the needs, or required.
        device: Where it would run; None where it does not fit, or runs at a service elsewhere.
        reason: Why, with numbers.
    """

    entry: CatalogueEntry
    fits: bool
    is_recommended: bool
    device: Device | None
    reason: str


def recommend(catalogue: Catalogue, machine: Machine, *, with_ollama: bool = True) -> list[Recommendation]:
    """Judge every model of the catalogue that can be installed, those recommended first.

    Args:
        catalogue: The models.
        machine: What they must fit.
        with_ollama: Whether an Ollama server is there; without one its models cannot run.
    """
    local = [entry for entry in catalogue.entries if not entry.key.is_remote]
    judged = [(entry, *_fit(entry, machine, with_ollama=with_ollama)) for entry in local]
    fitting = {entry.key: device for entry, device, _ in judged if device is not None}
    wanted: dict[ModelKey, list[str]] = {}
    for entry, need in _best_of_each_need([entry for entry, *_ in judged if entry.key in fitting], fitting, machine):
        wanted.setdefault(entry.key, []).append(need)
    found = []
    for entry, device, reason in judged:
        uses = ["required"] * entry.required + [f"best here for {need}" for need in wanted.get(entry.key, [])]
        is_recommended = bool(uses) and device is not None
        shown = f"{', '.join(uses)}; {reason}" if is_recommended else reason
        found.append(Recommendation(entry, device is not None, is_recommended, device, shown))
    return sorted(found, key=lambda item: (not item.is_recommended, not item.fits, item.entry.types[0], str(item.entry.key)))


def _fit(entry: CatalogueEntry, machine: Machine, *, with_ollama: bool) -> tuple[Device | None, str]:
    """Return where the model can run, if anywhere, and the reason in numbers."""
    if entry.provider == "ollama" and not with_ollama:
        return None, "no Ollama server answers"
    if entry.size_bytes is not None and entry.size_bytes * DISK_SPARE > machine.disk_free_bytes:
        return None, f"needs {_gib(entry.size_bytes * DISK_SPARE)} of disk, {_gib(machine.disk_free_bytes)} are free"
    if "cuda" in entry.devices and 0 < entry.min_vram_gb * GIB <= machine.gpu_memory_bytes:
        return "cuda", f"{entry.min_vram_gb:g} of the {_gib(machine.gpu_memory_bytes)} of {machine.gpu_name}"
    if "cpu" in entry.devices and entry.min_ram_gb * GIB <= machine.ram_bytes:
        return "cpu", f"{entry.min_ram_gb:g} of {_gib(machine.ram_bytes)} memory"
    if "cpu" not in entry.devices and not machine.gpu_memory_bytes:
        return None, f"needs a GPU with {entry.min_vram_gb:g} GiB"
    if "cpu" not in entry.devices:
        return None, f"needs {entry.min_vram_gb:g} GiB on the GPU, {machine.gpu_name} has {_gib(machine.gpu_memory_bytes)}"
    return None, f"needs {entry.min_ram_gb:g} GiB of memory, the machine has {_gib(machine.ram_bytes)}"


def _best_of_each_need(
    fitting: Sequence[CatalogueEntry], devices: dict[ModelKey, Device], machine: Machine
) -> Iterator[tuple[CatalogueEntry, str]]:
    comfortable = [entry for entry in fitting if _is_comfortable(entry, devices[entry.key], machine)]
    for kind, language in NEEDS:
        able = [entry for entry in comfortable if kind in entry.types and (language is None or language in entry.languages)]
        if able:
            best = max(able, key=lambda entry: _merit(entry, kind, language))
            yield best, kind if language is None else f"{kind} in {language}"


def _is_comfortable(entry: CatalogueEntry, device: Device, machine: Machine) -> bool:
    if device == "cuda":
        return entry.min_vram_gb * GIB <= machine.gpu_memory_bytes * LARGEST_GPU_SHARE
    return (entry.size_bytes or 0) <= LARGEST_CPU_WEIGHTS_BYTES


def _merit(entry: CatalogueEntry, kind: ModelType, language: str | None) -> tuple[bool, bool, bool, int]:
    """Rank models for one need: made for it first of all, loadable by the hub itself, then the larger one."""
    is_made_for_language = language is None or entry.languages[0] == language
    # Four-bit files are a third of what the same model takes unquantised, so sizes are compared by what they stand for.
    is_packed = entry.quantization is not None or entry.provider == "ollama"
    worth = (entry.size_bytes or 0) * (PACKED_FACTOR if is_packed else 1)
    return entry.types[0] == kind, is_made_for_language, entry.provider != "ollama", worth


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
