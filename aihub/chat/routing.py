"""Choosing the model for `model: "auto"`: what the request is, which models can take it, and points for each."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aihub.chat.history import EngineHistory, ModelRecord
from aihub.chat.routing_rules import RoutingRules, Task
from aihub.chat.service import estimate_tokens
from aihub.core.errors import ModelUnavailableError

logger = logging.getLogger(__name__)

AUTO = "auto"
ModelState = Literal["loaded", "loadable", "remote", "unfit"]

MAX_JUDGED_CHARS = 8_000
"""Of the newest user message; what a question is shows at its begin and end."""


@dataclass(frozen=True, slots=True)
class ModelCandidate:
    """What routing knows of a model.

    Attributes:
        types: Tasks it is meant for: `chat`, `code`, `vision`.
        languages: ISO 639-1 codes.
        state: `loadable` is installed and fits once it is loaded; `unfit` does not fit this machine.
        size_bytes: Weights; 0 when unknown, as for providers' models.
    """

    model_id: str
    types: frozenset[str]
    languages: frozenset[str]
    state: ModelState
    context_tokens: int
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What routing reads from a request.

    Attributes:
        tokens: Prompt, estimated, plus the answer's limit.
    """

    task: Task
    is_vietnamese: bool
    tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen model and why.

    Attributes:
        reasons: In words, with the points of each; ASCII.
    """

    model_id: str
    task: Task
    reasons: tuple[str, ...]


class Router:
    """Decides by rules; see `configs/routing.yaml`."""

    def __init__(self, rules: RoutingRules, history: EngineHistory) -> None:
        self._rules = rules
        self._history = history

    def read(self, body: Mapping[str, Any]) -> RequestFacts:
        """Find out what an engine's body (`messages` or `prompt`) asks for."""
        text, has_image = _newest(body)
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or 0
        return RequestFacts(
            task=self._rules.task_of(text, has_image=has_image),
            is_vietnamese=self._rules.is_vietnamese(text),
            tokens=_prompt_tokens(body) + int(limit),
        )

    def decide(self, facts: RequestFacts, candidates: Sequence[ModelCandidate], *, preferred: str | None = None) -> Decision:
        """Choose a model.

        Args:
            preferred: A model id; followed where that model can do the task and answers.

        Raises:
            ModelUnavailableError: No model can take the request; the message says what is missing.
        """
        usable = _usable(facts, candidates)
        scored = [(*self._points(facts, candidate, preferred), candidate.model_id) for candidate in usable]
        _, reasons, model_id = min(scored, key=lambda score: (-score[0], score[2]))
        language = "vi" if facts.is_vietnamese else "other"
        decision = Decision(model_id, facts.task, (f"task {facts.task}", f"language {language}", *reasons))
        fields = {"model": model_id, "task": facts.task, "reasons": list(decision.reasons), "candidates": len(usable)}
        logger.info("A model was chosen.", extra={"fields": fields})
        return decision

    def _points(self, facts: RequestFacts, candidate: ModelCandidate, preferred: str | None) -> tuple[float, tuple[str, ...]]:
        points = self._rules.points
        record = self._history.of(candidate.model_id)
        can_do = facts.task in candidate.types
        parts: list[tuple[str, float]] = []
        if candidate.model_id == preferred:
            parts.append(("preferred", points.preferred))
        if can_do:
            parts.append((f"made for {facts.task}", points.task))
        if ("vi" if facts.is_vietnamese else "en") in candidate.languages:
            parts.append(("speaks the language", points.language))
        parts.append(
            (candidate.state, {"loaded": points.loaded, "loadable": points.loadable}.get(candidate.state, points.remote))
        )
        parts.append(self._speed(record))
        if candidate.size_bytes:
            size_gb = candidate.size_bytes / 2**30
            parts.append((f"{size_gb:.1f} GB", points.size * min(size_gb / self._rules.large_gb, 1.0)))
        if record.error_rate >= 0.01:
            parts.append((f"{record.error_rate:.0%} errors lately", points.errors * record.error_rate))
        reasons = tuple(f"{name} {value:+.0f}" for name, value in parts)
        return sum(value for _, value in parts), reasons

    def _speed(self, record: ModelRecord) -> tuple[str, float]:
        if record.tokens_per_s is None:
            return "speed not measured", self._rules.points.speed / 2
        share = min(record.tokens_per_s / self._rules.fast_tokens_per_s, 1.0)
        return f"{record.tokens_per_s:.0f} tokens/s", self._rules.points.speed * share


def _usable(facts: RequestFacts, candidates: Sequence[ModelCandidate]) -> list[ModelCandidate]:
    """Return the candidates that can take the request at all.

    Raises:
        ModelUnavailableError: None.
    """
    present = [candidate for candidate in candidates if candidate.state != "unfit"]
    if not present:
        raise ModelUnavailableError(
            "There is no model to choose from: none is loaded or fits, and no provider is configured. "
            "See `aihub models recommended` for one that fits."
        )
    if facts.task == "vision":
        present = [candidate for candidate in present if "vision" in candidate.types]
        if not present:
            raise ModelUnavailableError("No model here reads images. Install one, or configure a provider that has one.")
    roomy = [candidate for candidate in present if candidate.context_tokens >= facts.tokens]
    # The estimate errs on the large side: where nothing seems to fit, the largest may, and else refuses with the numbers.
    return roomy or [max(present, key=lambda candidate: (candidate.context_tokens, candidate.model_id))]


def _newest(body: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the newest user message (or the prompt), shortened, and whether any message holds an image."""
    if "messages" not in body:
        prompt = body.get("prompt", "")
        return _shortened(prompt if isinstance(prompt, str) else ""), False
    parts = [_parts(message.get("content")) for message in body["messages"]]
    spoken = [text for (text, _), message in zip(parts, body["messages"], strict=True) if message.get("role") == "user"]
    return _shortened(spoken[-1] if spoken else ""), any(has_image for _, has_image in parts)


def _parts(content: Any) -> tuple[str, bool]:
    if not isinstance(content, list):
        return content or "", False
    texts = [part.get("text") or "" for part in content if part.get("type") == "text"]
    return "\n".join(texts), any(part.get("type") in {"image_url", "input_image"} for part in content)


def _shortened(text: str) -> str:
    half = MAX_JUDGED_CHARS // 2
    return text if len(text) <= MAX_JUDGED_CHARS else f"{text[:half]}\n{text[-half:]}"


def _prompt_tokens(body: Mapping[str, Any]) -> int:
    if "messages" in body:
        return estimate_tokens(body)
    prompt = body.get("prompt", "")
    return estimate_tokens({"messages": [{"content": prompt}]}) if isinstance(prompt, str) else 0
