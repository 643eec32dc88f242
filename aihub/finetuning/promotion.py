"""When a version may be promoted, and when gone back from."""

from dataclasses import replace

from aihub.core.errors import ConflictError
from aihub.finetuning.adapter_folder import Adapter
from aihub.finetuning.adapter_ids import AdapterId
from aihub.finetuning.adapter_state import NameState


def check_promoted(alias: AdapterId, state: NameState, version: int | None) -> None:
    """Check that a version is promoted: this one, or any for None.

    Raises:
        ConflictError: It is not (`adapter_not_promoted`).
    """
    if state.promoted is None:
        raise ConflictError(
            f"No version of {alias} is promoted, so there is nothing to go back from.",
            param="adapter_id",
            code="adapter_not_promoted",
        )
    if version not in {None, state.promoted}:
        raise ConflictError(
            f"{replace(alias, version=version)} is not promoted; {replace(alias, version=state.promoted)} is. Name {alias} to go "
            "back from that.",
            param="adapter_id",
            code="adapter_not_promoted",
        )


def check_gate(adapter: Adapter, state: NameState) -> None:
    """Check that a version is no worse than its base and than the promoted version.

    Raises:
        ConflictError: It is (`adapter_worse`), or was compared with another one than is promoted now (`evaluation_outdated`).
    """
    report, base = adapter.manifest.evaluation, adapter.id.base
    if (objection := report.find_objection(base)) is not None:
        raise ConflictError(
            f"{adapter.adapter_id} is not promoted. {objection} Send force: true to promote it all the same.",
            param="adapter_id",
            code="adapter_worse",
        )
    current = None if state.promoted is None else str(replace(adapter.id, version=state.promoted))
    if current is not None and report.current_id != current:
        raise ConflictError(
            f"{adapter.adapter_id} was compared with {report.current_id or base}, and {current} has been promoted since. Train "
            "again to compare it with that, or send force: true.",
            param="adapter_id",
            code="evaluation_outdated",
        )
