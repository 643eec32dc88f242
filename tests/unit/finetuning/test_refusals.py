"""What is no job, and what the client is told."""

import json
from typing import Any

import pytest

from tests.unit.conftest import assert_refused
from tests.unit.finetuning.jobs_hub import BASE, ROWS, JobsHub, jsonl

SUPERVISED = {"type": "supervised"}


async def refused(hub: JobsHub, status: int, body: dict[str, Any], **expected: Any) -> str:
    """The message; the refusal has left no job and no folder."""
    answer = await hub.http.post("/v1/fine_tuning/jobs", json=body)
    error = assert_refused(answer, status, **expected)
    assert (hub.folders(), await hub.job_ids(), hub.nudges) == ([], [], [])
    return str(error["message"])


@pytest.mark.parametrize(
    ("model", "hub_id"),
    [
        ("llama2:7b", "meta-llama/Llama-2-7b-chat-hf"),
        ("llama2", "meta-llama/Llama-2-7b-chat-hf"),
        ("ollama/llama2:13b-chat-q4_K_M", "meta-llama/Llama-2-13b-chat-hf"),
        ("ollama:qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("ollama/mistral", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("smollm2:latest", "HuggingFaceTB/SmolLM2-1.7B-Instruct"),
        ("phi3:mini", "microsoft/Phi-3-mini-4k-instruct"),
        ("cua-hang:7b", "<org>/<name>"),
        ("ollama/nobody/knows:1b", "<org>/<name>"),
    ],
)
async def test_a_model_of_ollama_is_refused_with_the_one_that_can_be_trained(hub: JobsHub, model: str, hub_id: str) -> None:
    body = {"model": model, "training_file": await hub.uploaded()}
    message = await refused(hub, 400, body, param="model", code="model_not_trainable")
    assert f"`aihub models download hf:{hub_id}`" in message
    assert ("HF_TOKEN" in message) == hub_id.startswith("meta-llama")


@pytest.mark.parametrize(
    ("model", "status", "code", "words"),
    [
        ("no-such", 404, "model_not_found", "damaged, quantised, toy-base, wide"),
        ("mô-hình", 404, "model_not_found", "These can be trained"),
        ("openai/gpt-4o-mini", 400, "model_not_trainable", "runs at a service elsewhere"),
        ("quantised", 400, "model_not_trainable", "GPTQ"),
        ("damaged", 400, "model_not_trainable", "Install it again"),
        (f"{BASE}:shop@v1", 400, "model_not_trainable", f"Train its base '{BASE}'"),
        (f"{BASE}:shop", 400, "model_not_trainable", f"Train its base '{BASE}'"),
    ],
)
async def test_a_model_that_cannot_be_trained_is_refused_with_the_reason(
    hub: JobsHub, model: str, status: int, code: str, words: str
) -> None:
    body = {"model": model, "training_file": await hub.uploaded()}
    assert words in await refused(hub, status, body, param="model", code=code)


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"method": {"type": "dpo", "dpo": {}}}, "method.type", "unsupported_method"),
        ({"method": {"type": "reinforcement"}}, "method.type", "unsupported_method"),
        ({"method": {"type": "magic"}}, "method.type", "invalid_value"),
        ({"integrations": [{"type": "wandb", "wandb": {"project": "a"}}]}, "integrations", "unsupported_parameter"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", None),
        ({"hyperparameters": {"n_epochs": "many"}}, "hyperparameters.n_epochs", None),
        ({"hyperparameters": {"n_epoch": 3}}, "hyperparameters.n_epoch", "unknown_parameter"),
        ({"hyperparameters": {"learning_rate_multiplier": 501}}, "hyperparameters.learning_rate_multiplier", None),
        ({"lora": {"rang": 8}}, "lora.rang", "unknown_parameter"),
        ({"lora": {"rank": 65}}, "lora.rank", None),
        ({"lora": {"early_stopping_patience": 2}}, "lora.early_stopping_patience", None),
        ({"suffix": "???"}, "suffix", None),
        ({"suffix": "a" * 65}, "suffix", None),
        ({"seed": -1}, "seed", None),
        ({"metadata": {"a": 1}}, "metadata.a", None),
        ({"training_file": "../../etc/passwd"}, "training_file", None),
        ({"training_file": None}, "training_file", None),
        ({"seed": 1, "lora": {"seed": 2}}, "lora.seed", "contradicting_parameters"),
        ({"hyperparameters": {"n_epochs": 3}, "lora": {"epochs": 4}}, "lora.epochs", "contradicting_parameters"),
        (
            {"hyperparameters": {"batch_size": 3}, "method": SUPERVISED | {"supervised": {"hyperparameters": {"batch_size": 4}}}},
            "method.supervised.hyperparameters.batch_size",
            "contradicting_parameters",
        ),
        (
            {"hyperparameters": {"learning_rate_multiplier": 2}, "lora": {"learning_rate": 1e-3}},
            "lora.learning_rate",
            "contradicting_parameters",
        ),
    ],
)
async def test_a_wrong_or_contradicting_field_is_named(
    hub: JobsHub, changes: dict[str, Any], param: str, code: str | None
) -> None:
    body = {"model": BASE, "training_file": await hub.uploaded()} | changes
    await refused(hub, 400, {name: value for name, value in body.items() if value is not None}, param=param, code=code)


async def test_the_same_value_twice_is_no_contradiction_and_auto_gives_way(hub: JobsHub) -> None:
    job = await hub.created(
        hyperparameters={"n_epochs": 4, "batch_size": "auto", "learning_rate_multiplier": 5},
        method=SUPERVISED | {"supervised": {"hyperparameters": {"n_epochs": 4}}},
        lora={"epochs": 4, "batch_size": 2, "learning_rate": 1e-3},
        integrations=[],
        ein_neues_feld=True,
    )
    assert job["hyperparameters"] == {"n_epochs": 4, "batch_size": 2, "learning_rate_multiplier": 5.0}


@pytest.mark.parametrize("purpose", ["user_data", "assistants"])
async def test_a_file_for_something_else_is_refused_with_the_purpose_it_needs(hub: JobsHub, purpose: str) -> None:
    file_id = await hub.uploaded(purpose=purpose)
    body = {"model": BASE, "training_file": file_id}
    assert "'fine-tune'" in await refused(hub, 400, body, param="training_file", code="invalid_file_purpose")
    body = {"model": BASE, "training_file": await hub.uploaded(), "validation_file": file_id}
    await refused(hub, 400, body, param="validation_file", code="invalid_file_purpose")
    await refused(hub, 404, body | {"validation_file": "file-gone"}, param="validation_file", code="file_not_found")


async def test_wrong_lines_are_told_with_their_numbers(hub: JobsHub) -> None:
    wrong = jsonl([*ROWS[:3], {"prompt": "Thiếu câu trả lời"}, *ROWS[3:5]])
    body = {"model": BASE, "training_file": await hub.uploaded(wrong)}
    message = await refused(hub, 400, body, param="training_file", code="invalid_training_file")
    assert "Line 4: 'completion' is required" in message
    body = {"model": BASE, "training_file": await hub.uploaded(), "validation_file": await hub.uploaded(b"\xff\xfe")}
    await refused(hub, 400, body, param="validation_file", code="invalid_validation_file")
    body = {"model": BASE, "training_file": await hub.uploaded(b"\n")}
    assert "has no rows" in await refused(hub, 400, body, code="invalid_training_file")


async def test_rows_longer_than_the_model_reads_are_cut_to_what_it_reads(hub: JobsHub) -> None:
    job = await hub.created(lora={"max_tokens": 100_000})
    assert job["hub"]["datasets"]["training"]["max_tokens"] == 2048


async def test_a_header_that_is_no_key_is_refused(hub: JobsHub) -> None:
    body = {"model": BASE, "training_file": await hub.uploaded()}
    for key in ("", "k" * 256):
        answer = await hub.http.post("/v1/fine_tuning/jobs", json=body, headers={"Idempotency-Key": key})
        assert_refused(answer, 400)
    assert await hub.job_ids() == []


async def test_a_name_of_a_model_may_hold_anything(hub: JobsHub) -> None:
    file_id = await hub.uploaded()
    for model in ("'; DROP TABLE finetuning_jobs; --", "../../models", "a" * 256, "🍜", "hf:", ":", "@v1"):
        answer = await hub.http.post("/v1/fine_tuning/jobs", content=json.dumps({"model": model, "training_file": file_id}),
                                     headers={"content-type": "application/json"})  # fmt: skip
        assert answer.status_code in {400, 404}, (model, answer.text)
