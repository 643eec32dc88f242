"""Adapters for tests: real files, small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from aihub.finetuning.adapter_folder import CONFIG, WEIGHTS, AdapterManifest
from aihub.finetuning.evaluation import EvaluationReport, Score

BASE = "smollm2-135m-instruct"


def build_candidate(folder: Path, *, mark: float = 1.0) -> Path:
    """A folder as training leaves it; `mark` tells it from others."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    weights = {name.format("A"): np.full((2, 8), mark, np.float32), name.format("B"): np.full((8, 2), mark, np.float32)}
    save_file(weights, folder / WEIGHTS)
    (folder / "README.md").write_text("written by peft", encoding="utf-8")
    return folder


def report(*, base: float = 2.0, candidate: float = 1.0, current: float | None = None, **more: Any) -> EvaluationReport:
    """An evaluation by losses."""
    return EvaluationReport(
        rows=30,
        asked_rows=0,
        is_held_out=True,
        base=Score(base),
        candidate=Score(candidate),
        current=None if current is None else Score(current),
        **more,
    )


def manifest(
    *, base: str = BASE, name: str = "shop", tenant: str = "default", evaluation: EvaluationReport | None = None
) -> AdapterManifest:
    return AdapterManifest(
        tenant_id=tenant,
        base_model=base,
        base_digest="abc",
        name=name,
        job_id="ftjob-1",
        created_at=1_700_000_000,
        rank=2,
        data_sha256="0" * 64,
        validation_sha256=None,
        settings={"rank": 2, "ghi chú": "tiếng Việt"},
        metrics={"loss": 1.0},
        evaluation=evaluation or report(),
    )
