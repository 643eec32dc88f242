"""What a report of the `models` deployment says to routing, to clients and to the cache."""

from collections.abc import Iterable

from aihub.chat.routing import ModelCandidate, ModelState
from aihub.chat.service import ChatModelInfo
from aihub.core.principal import Principal
from aihub.models.service import AdapterView, ModelsReport
from pipelines.answer_basis import ModelIdentity
from pipelines.chat import model_not_found


def list_candidates(report: ModelsReport) -> list[ModelCandidate]:
    """Return what routing must know of each local model."""
    return [
        ModelCandidate(
            view.model_id,
            frozenset(view.types),
            frozenset(view.languages),
            _routing_state(view.state, fits=view.fits and view.failure is None),
            view.context_tokens,
            view.weights_bytes,
        )
        for view in report.models
    ]


def list_models(report: ModelsReport, principal: Principal, default_model: str) -> list[ChatModelInfo]:
    """Return what can be asked: loaded models first, then those that their first request loads, then their adapters."""
    model_infos = []
    for view in sorted(report.models, key=lambda view: (view.state != "ready", view.model_id != default_model)):
        if view.fits and view.failure is None:
            ready = report.directory.ready.get(view.model_id)
            created = ready.created if ready else 0
            model_infos.append(ChatModelInfo(view.model_id, view.context_tokens, created, max_images=view.max_images))
    context_tokens = {model_info.model_id: model_info.context_tokens for model_info in model_infos}
    for adapter in report.adapters:
        if adapter.base in context_tokens and adapter.tenant_id == principal.tenant_id:
            for name in filter(None, (adapter.alias, adapter.adapter_id)):
                model_infos.append(ChatModelInfo(name, context_tokens[adapter.base], adapter.created))
    return model_infos


def adapter_of(principal: Principal, name: str, adapters: Iterable[AdapterView]) -> AdapterView | None:
    """Return the caller's adapter of an id or alias."""
    own = (adapter for adapter in adapters if adapter.tenant_id == principal.tenant_id)
    return next((adapter for adapter in own if name in {adapter.adapter_id, adapter.alias}), None)


def identify_model(report: ModelsReport, name: str, adapter: AdapterView | None) -> ModelIdentity | None:
    """Return what a name stands for by a report; None while its version is not known.

    Raises:
        NotFoundError: The report has no such model.
    """
    base = adapter.base if adapter is not None else name
    view = next((view for view in report.models if view.model_id == base), None)
    if view is None:
        raise model_not_found(name, [view.model_id for view in report.models])
    if not view.version:
        return None
    if adapter is None:
        return ModelIdentity(base, "local", view.version)
    return ModelIdentity(adapter.adapter_id, "local", f"{view.version} {adapter.created}")


def _routing_state(state: str, *, fits: bool) -> ModelState:
    if state == "ready":
        return "loaded"
    return "loadable" if fits else "unfit"
