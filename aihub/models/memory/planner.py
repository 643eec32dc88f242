"""Which models of the catalogue fit a machine, alone and together, and why; computed as admission does it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import yaml

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import Profile
from aihub.models.memory.ledger import DeviceBudget, gib
from aihub.models.memory.requirement import GIB, MemoryRequirement, ModelShape, requirement_of, shape_of_config
from aihub.models.memory.vision import VisionSupport, has_vision, vision_of_config
from aihub.models.store.catalogue import Catalogue, CatalogueEntry

SHAPES_PATH = Path(__file__).resolve().parents[3] / "configs" / "model_shapes.yaml"
LEAST_CONTEXT_TOKENS = 512
MOST_SETS = 12
SMALL_BATCH = 4
"""Sequences at a time with which a model too large for the profile's batch is tried again."""

Verdict = Literal["fits", "alone", "too_large", "elsewhere"]


@dataclass(frozen=True, slots=True)
class KnownShape:
    """Dimensions of a model that is not installed.

    Attributes:
        weights_bytes: None when its download is what is served.
        config: Where the dimensions come from; those of its image encoder are among them.
    """

    shape: ModelShape
    weights_bytes: int | None
    config: Mapping[str, Any] = field(default_factory=dict)

    def vision(self, context_tokens: int) -> VisionSupport | None:
        """How it sees; None for a model that reads text only."""
        if not has_vision(self.config):
            return None
        return vision_of_config(self.config, context_tokens=context_tokens, value_bytes=self.shape.value_bytes)


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """One model on the device.

    Attributes:
        verdict: `fits` beside the parts that stay in memory, `alone` only without them, `too_large`, or `elsewhere` when
            it does not run on this device.
        context_tokens: Context it is planned with.
        longest_context_tokens: The longest that fits with the same batch; 0 when none does.
        reason: The sum, in words.
        image_tokens: Tokens of that context one image takes at most; None for a model that reads text only.
    """

    model_id: str
    key: str
    verdict: Verdict
    requirement: MemoryRequirement | None
    context_tokens: int
    longest_context_tokens: int
    reason: str
    image_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """Attributes:
    together: Sets of model ids that fit at the same time; none can take another model in.
    """

    profile: str
    budget: DeviceBudget
    max_models: int
    models: list[PlannedModel]
    together: list[tuple[str, ...]]


def load_shapes(path: Path = SHAPES_PATH) -> dict[str, KnownShape]:
    """Read `configs/model_shapes.yaml`: shapes by registry key.

    Raises:
        ConfigurationError: An entry is not a model's dimensions.
    """
    document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    shapes: dict[str, KnownShape] = {}
    for key, config in document.items():
        try:
            shapes[key] = KnownShape(shape_of_config(config), config.get("weights_bytes"), config)
            shapes[key].vision(LEAST_CONTEXT_TOKENS)  # its dimensions are checked now too
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigurationError(f"{path.name}: the entry {key!r} is wrong ({error}).") from error
    return shapes


def make_plan(
    profile: Profile,
    budget: DeviceBudget,
    catalogue: Catalogue,
    shapes: Mapping[str, KnownShape],
    *,
    max_models: int,
) -> Plan:
    """Judge every local model of the catalogue on the profile's device.

    Args:
        profile: Context, batch and cache size.
        budget: What the device has for models.
        catalogue: The models.
        shapes: Dimensions by key; a model without is judged by the catalogue's own figure.
        max_models: MAX_CONCURRENT_MODELS; 0 is no limit.
    """
    local = [entry for entry in catalogue.entries if not entry.key.is_remote]
    models = [_judge(entry, profile, budget, shapes.get(str(entry.key))) for entry in local]
    order: dict[Verdict, int] = {"fits": 0, "alone": 1, "too_large": 2, "elsewhere": 3}
    models.sort(key=lambda model: (order[model.verdict], -_total(model)))
    return Plan(profile.name, budget, max_models, models, _sets(models, budget.models_bytes, max_models))


def _judge(entry: CatalogueEntry, profile: Profile, budget: DeviceBudget, known: KnownShape | None) -> PlannedModel:
    elsewhere = _why_elsewhere(entry, profile)
    tokens = min(profile.llm.max_model_len, entry.context_tokens or profile.llm.max_model_len)
    if elsewhere is not None:
        return PlannedModel(entry.model_id, str(entry.key), "elsewhere", None, tokens, 0, elsewhere)
    need = _requirement(entry, profile, known, tokens)
    if need.total_bytes <= budget.models_bytes:
        verdict: Verdict = "fits"
        longest = _longest_context(entry, profile, known, budget.models_bytes)
        reason = f"{_sum(need)}; {gib(budget.models_bytes)} are there"
    elif need.total_bytes <= budget.budget_bytes:
        verdict = "alone"
        longest = _longest_context(entry, profile, known, budget.budget_bytes)
        parts = ", ".join(f"{name} {gib(size)}" for name, size in budget.fixed.items())
        reason = f"{_sum(need)}; beside {parts} only {gib(budget.models_bytes)} are left, without them {gib(budget.budget_bytes)}"
    elif profile.llm.max_num_seqs > SMALL_BATCH:
        return _judge_small_batch(entry, profile, budget, known, need)
    else:
        verdict = "too_large"
        longest = _longest_context(entry, profile, known, budget.budget_bytes)
        shorter = f"; at most {longest} tokens of context would fit alone" if longest else ""
        reason = f"{_sum(need)}; the whole budget is {gib(budget.budget_bytes)}{shorter}"
    vision = known.vision(tokens) if known is not None else None
    if vision is not None:
        reason += f"; an image takes up to {vision.image_tokens} of {tokens} tokens of context"
    image_tokens = vision.image_tokens if vision is not None else None
    return PlannedModel(entry.model_id, str(entry.key), verdict, need, tokens, longest, reason, image_tokens)


def _judge_small_batch(
    entry: CatalogueEntry, profile: Profile, budget: DeviceBudget, known: KnownShape | None, need: MemoryRequirement
) -> PlannedModel:
    """Judge a model again with a few sequences at a time; `need` is what it takes with the profile's batch."""
    small = profile.model_copy(update={"llm": profile.llm.model_copy(update={"max_num_seqs": SMALL_BATCH})})
    again = _judge(entry, small, budget, known)
    batch = profile.llm.max_num_seqs
    if again.verdict == "too_large":
        return replace(again, requirement=need, reason=again.reason + f" with {SMALL_BATCH} sequences at a time")
    reason = f"{gib(need.total_bytes)} for {batch} sequences at a time; for {SMALL_BATCH}: {again.reason}"
    return replace(again, verdict="alone", reason=reason)


def _why_elsewhere(entry: CatalogueEntry, profile: Profile) -> str | None:
    if entry.provider == "ollama":
        return f"an Ollama server holds it, beside this budget: about {entry.min_vram_gb:g} GiB of a card"
    if entry.types[0] == "speech":
        return f"speech runs on the CPU: about {entry.min_ram_gb:g} GiB of RAM"
    if entry.types[0] == "embeddings":
        return "embeddings have a fixed share of their own"
    if profile.device not in entry.devices:
        return f"it runs on {' or '.join(entry.devices)} only"
    return None


def _requirement(entry: CatalogueEntry, profile: Profile, known: KnownShape | None, context_tokens: int) -> MemoryRequirement:
    if known is None:
        least_gb = entry.min_ram_gb if profile.device == "cpu" else entry.min_vram_gb
        weights_bytes = entry.size_bytes or 0
        return MemoryRequirement(weights_bytes, 0, max(int(least_gb * GIB) - weights_bytes, 0))
    vision = known.vision(context_tokens)
    cache_gb = profile.llm.cpu_kv_cache_gb if profile.device == "cpu" else None
    return requirement_of(
        known.weights_bytes or entry.size_bytes or 0,
        known.shape,
        context_tokens=context_tokens,
        max_num_seqs=profile.llm.max_num_seqs,
        device="cpu" if profile.device == "cpu" else "cuda:0",
        kv_cache_bytes=cache_gb * GIB if cache_gb is not None else None,
        adapters=profile.llm.adapters if vision is None else None,
        vision=vision,
    )


def _longest_context(entry: CatalogueEntry, profile: Profile, known: KnownShape | None, room_bytes: int) -> int:
    """The longest context that fits, in steps of 512 tokens, up to what the model was made for."""
    most = (entry.context_tokens or profile.llm.max_model_len) // LEAST_CONTEXT_TOKENS
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        if _requirement(entry, profile, known, middle * LEAST_CONTEXT_TOKENS).total_bytes <= room_bytes:
            low = middle
        else:
            high = middle - 1
    return low * LEAST_CONTEXT_TOKENS


def _sum(need: MemoryRequirement) -> str:
    return (
        f"{gib(need.weights_bytes)} weights + {gib(need.kv_cache_bytes)} KV cache + {gib(need.overhead_bytes)} engine "
        f"+ {gib(need.adapter_bytes)} for adapters "
        f"= {gib(need.total_bytes)}"
    )


def _sets(models: list[PlannedModel], room_bytes: int, max_models: int) -> list[tuple[str, ...]]:
    """Sets of fitting models that cannot be extended, those that use the device best first."""
    sizes = {model.model_id: _total(model) for model in models if model.verdict == "fits"}
    limit = min(max_models or len(sizes), len(sizes))
    fitting = [
        frozenset(names)
        for count in range(1, limit + 1)
        for names in combinations(sizes, count)
        if sum(sizes[name] for name in names) <= room_bytes
    ]
    maximal = [names for names in fitting if not any(names < other for other in fitting)]
    maximal.sort(key=lambda names: -sum(sizes[name] for name in names))
    return [tuple(sorted(names, key=lambda name: -sizes[name])) for names in maximal[:MOST_SETS]]


def _total(model: PlannedModel) -> int:
    return model.requirement.total_bytes if model.requirement else 0
