import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from aihub.core.errors import ConfigurationError
from aihub.core.profiles import load_profile
from aihub.models.cli.plan import plan
from aihub.models.memory.ledger import DeviceBudget, device_budget, open_ledger
from aihub.models.memory.planner import Plan, PlannedModel, load_shapes, make_plan
from aihub.models.memory.requirement import GIB
from aihub.models.store.catalogue import load_catalogue

app = typer.Typer()
app.command()(plan)


def plan_for(profile_name: str, *, ram_gib: int = 16, max_models: int = 3) -> Plan:
    profile = load_profile(profile_name)
    budget = device_budget(profile, ram_bytes=ram_gib * GIB)
    return make_plan(profile, budget, load_catalogue(), load_shapes(), max_models=max_models)


def model(plan: Plan, model_id: str) -> PlannedModel:
    return next(one for one in plan.models if one.model_id == model_id)


@pytest.fixture(scope="module")
def card() -> Plan:
    return plan_for("rtx4060ti")


def test_every_local_model_of_the_catalogue_is_judged(card: Plan) -> None:
    local = {entry.model_id for entry in load_catalogue().entries if not entry.key.is_remote}
    assert {one.model_id for one in card.models} == local
    assert all(one.reason for one in card.models)


def test_seven_billion_parameters_in_four_bits_fit_the_16_gb_card(card: Plan) -> None:
    qwen = model(card, "qwen2.5-7b-instruct-awq")
    assert qwen.verdict == "fits"
    assert qwen.requirement is not None
    assert 8 * GIB < qwen.requirement.total_bytes < 11 * GIB
    assert qwen.longest_context_tokens > qwen.context_tokens


def test_gpt_oss_needs_the_16_gb_card_for_itself_and_the_reason_has_numbers(card: Plan) -> None:
    gpt_oss = model(card, "gpt-oss-20b")
    assert gpt_oss.verdict == "alone"
    assert "for 48 sequences at a time; for 4:" in gpt_oss.reason
    assert "12.9 GiB weights" in gpt_oss.reason
    assert 0 < gpt_oss.longest_context_tokens < 65536
    assert all("gpt-oss-20b" not in names for names in card.together)


def test_models_that_see_fit_the_16_gb_card_beside_the_embeddings_and_tell_what_an_image_takes(card: Plan) -> None:
    for model_id in ("qwen2.5-vl-3b-instruct-awq", "qwen2.5-vl-7b-instruct-awq", "qwen3-vl-4b-instruct-fp8"):
        seeing = model(card, model_id)
        assert (seeing.verdict, seeing.image_tokens) == ("fits", 1032)
        assert "an image takes up to 1032 of 16384 tokens" in seeing.reason
    assert model(card, "qwen3-vl-8b-instruct-fp8").verdict == "alone"
    assert model(card, "qwen2.5-7b-instruct-awq").image_tokens is None


def test_sets_fit_and_none_can_take_another_model_in(card: Plan) -> None:
    sizes = {one.model_id: one.requirement.total_bytes for one in card.models if one.requirement and one.verdict == "fits"}
    assert card.together
    for names in card.together:
        used = sum(sizes[name] for name in names)
        assert used <= card.budget.models_bytes
        assert len(names) <= card.max_models
        if len(names) < card.max_models:
            assert all(used + size > card.budget.models_bytes for name, size in sizes.items() if name not in names)


def test_models_of_other_engines_are_told_apart(card: Plan) -> None:
    assert "Ollama" in model(card, "ollama/gemma2:9b").reason
    assert {one.verdict for one in card.models if one.key.startswith(("ollama:", "vosk:"))} == {"elsewhere"}


def test_cpu_plan_counts_ram_and_leaves_models_of_the_card_out() -> None:
    plan = plan_for("cpu", ram_gib=8)
    assert model(plan, "smollm2-135m-instruct").verdict == "fits"
    assert model(plan, "qwen2.5-7b-instruct-awq").verdict == "elsewhere"
    assert model(plan, "qwen2.5-3b-instruct").verdict == "too_large"
    assert model(plan_for("cpu", ram_gib=64), "qwen2.5-3b-instruct").verdict == "fits"


def test_every_chat_model_served_here_has_its_dimensions(card: Plan) -> None:
    shapes = load_shapes()
    served = [
        str(entry.key)
        for entry in load_catalogue().entries
        if entry.provider in {"hf", "package"} and entry.types[0] in {"chat", "code", "vision"}
    ]
    assert set(served) <= shapes.keys()


def test_wrong_shape_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shapes.yaml"
    path.write_text("hf:org/x: {num_hidden_layers: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="hf:org/x"):
        load_shapes(path)


def test_wrong_shape_of_an_image_encoder_is_named(tmp_path: Path) -> None:
    text = "num_hidden_layers: 1, num_attention_heads: 1, hidden_size: 8, vocab_size: 9"
    path = tmp_path / "shapes.yaml"
    path.write_text(f"hf:org/x: {{{text}, model_type: llava, vision_config: {{image_size: big}}}}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="hf:org/x.*image_size"):
        load_shapes(path)


def test_ledger_opens_with_the_planned_budget_and_fixed_parts() -> None:
    budget = DeviceBudget("cuda:0", 16 * GIB, 15 * GIB, {"embeddings": 2 * GIB})
    ledger = open_ledger(budget)
    assert ledger.capacity_bytes("cuda:0") == budget.models_bytes == 13 * GIB


def test_command_prints_what_fits_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    result = CliRunner().invoke(app, ["--profile", "rtx4060ti"])
    assert result.exit_code == 0, result.output
    assert "gpt-oss-20b" in result.output
    assert "Together" in result.output


def test_command_prints_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["--profile", "rtx4060ti", "--json"])
    document = json.loads(result.stdout)
    assert document["device"]["models_bytes"] > 0
    assert {one["verdict"] for one in document["models"]} >= {"fits", "elsewhere"}


def test_plan_keeps_to_what_the_operator_gives_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path))
    monkeypatch.setenv("AIHUB_MODELS_MEMORY_GB", "4")
    result = CliRunner().invoke(app, ["--profile", "rtx4060ti", "--json"])
    assert json.loads(result.stdout)["device"]["models_bytes"] == 4 * GIB


def test_more_memory_fits_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AIHUB_HOME", str(tmp_path))
    result = CliRunner().invoke(app, ["--profile", "rtx4060ti", "--memory-gb", "24", "--json"])
    models = {one["model_id"]: one for one in json.loads(result.stdout)["models"]}
    assert models["gpt-oss-20b"]["verdict"] == "fits"
