"""The loop itself, on a Llama of two layers."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from aihub.core.errors import ConfigurationError, InvalidRequestError
from aihub.finetuning.examples import Example, Turn
from aihub.finetuning.results import CheckpointMismatchError, TrainedAdapter, TrainingCancelledError, TrainingDivergedError
from tests.unit.test_import_rules import ROOT, imports
from tests.unit.training.conftest import Watch
from tests.unit.training.tiny_model import SETTINGS, ask, build_tokenizer, questions, write_tiny_model
from training.lora import return_free_memory, train

SameWeights = Callable[[Path, Path], bool]


def run(base: Path, folder: Path, watch: Watch | None = None, *, validation: Any = (), **changes: Any) -> TrainedAdapter:
    watch = watch or Watch()
    settings = SETTINGS.model_copy(update=changes)
    return train(
        base,
        questions(),
        settings,
        work=folder / "work",
        output=folder / "adapter",
        validation=validation,
        base_name="tiny",
        report=watch.report,
        cancelled=watch.cancelled,
    )


def losses_of(base: Path, folder: Path, **changes: Any) -> list[float]:
    watch = Watch()
    run(base, folder, watch, **changes)
    return watch.losses


NO_RAY = ["lora", "adapters", "batches", "checkpoints", "data_parallel", "evaluation", "losses", "training_data", "worker"]


@pytest.mark.parametrize("name", NO_RAY)
def test_the_loop_knows_no_ray(name: str) -> None:
    used = {module.partition(".")[0] for module in imports(ROOT / "training" / f"{name}.py")}
    assert "torch" in used or name == "training_data"
    assert "ray" not in used


def test_loss_falls_and_every_step_is_reported(base: Path, tmp_path: Path) -> None:
    watch = Watch()
    result = run(base, tmp_path, watch, epochs=10, validation=questions()[:2])
    assert [report.step for report in watch.reports] == list(range(41))
    assert watch.losses[-1] < watch.losses[0] * 0.7
    first, last = watch.reports[0], watch.reports[-1]
    assert first.loss is None and first.eval_loss == result.metrics.eval_loss_before
    assert (last.of, last.seconds_left) == (40, 0)
    assert last.tokens_per_s > 0 and last.memory_bytes > 2**20
    assert [report.step for report in watch.reports if report.eval_loss is not None] == list(range(0, 41, 4))
    assert result.metrics.steps == 40 and result.metrics.loss == last.loss
    assert result.metrics.eval_loss < result.metrics.eval_loss_before
    assert result.metrics.trained_tokens < result.metrics.training_tokens


def test_adapter_is_read_by_peft_and_says_what_was_learned(base: Path, tmp_path: Path) -> None:
    result = run(base, tmp_path, epochs=40, rank=8, alpha=16, checkpoint_every_steps=1000)
    assert sorted(path.name for path in result.folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((result.folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (8, 16, "tiny")
    tokenizer = build_tokenizer()
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Who?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    adapted = PeftModel.from_pretrained(model, str(result.folder))
    after = adapted.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(after) == "Hạnh<|im_end|>"
    assert tokenizer.decode(before) != "Hạnh<|im_end|>"


def test_two_runs_with_one_seed_are_equal_and_another_seed_differs(base: Path, tmp_path: Path, same_weights: SameWeights) -> None:
    results = [run(base, tmp_path / name, dropout=0.2, seed=seed) for name, seed in (("a", 3), ("b", 3), ("c", 4))]
    assert same_weights(results[0].folder, results[1].folder)
    assert not same_weights(results[0].folder, results[2].folder)


def test_packed_and_padded_training_have_the_same_losses(base: Path, tmp_path: Path) -> None:
    packed = losses_of(base, tmp_path / "packed", batch_size=7, packing=True)
    padded = losses_of(base, tmp_path / "padded", batch_size=7, packing=False)
    assert packed == pytest.approx(padded, abs=1e-4)


def test_accumulated_steps_weigh_each_token_the_same(base: Path, tmp_path: Path) -> None:
    """One pass over seven examples of very different lengths, or seven passes: not a mean of seven means."""
    together = losses_of(base, tmp_path / "one", batch_size=7, gradient_accumulation=1, epochs=4)
    apart = losses_of(base, tmp_path / "seven", batch_size=1, gradient_accumulation=7, epochs=4)
    assert apart == pytest.approx(together, abs=1e-4)


def test_gradient_checkpointing_changes_no_loss(base: Path, tmp_path: Path) -> None:
    kept = losses_of(base, tmp_path / "kept", dropout=0.1)
    again = losses_of(base, tmp_path / "again", dropout=0.1, gradient_checkpointing=True)
    assert again == pytest.approx(kept, abs=1e-5)


def test_learning_rate_rises_and_falls_as_a_cosine(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path, epochs=5, warmup_share=0.2, checkpoint_every_steps=2)
    state = json.loads((tmp_path / "work" / "checkpoint-00000018" / "state.json").read_text(encoding="utf-8"))
    # 20 steps, 4 of them warm-up; after step 18 14 of 16 are behind.
    assert state["scheduler"]["_last_lr"] == pytest.approx([SETTINGS.learning_rate * 0.5 * (1 + math.cos(math.pi * 14 / 16))])


@pytest.mark.parametrize("step", [1, 4, 5])
def test_cancelled_training_keeps_its_last_step_and_resumes_to_the_same_losses(
    base: Path, tmp_path: Path, same_weights: SameWeights, step: int
) -> None:
    held_out = questions()[:3]
    whole = Watch()
    uninterrupted = run(base, tmp_path / "whole", whole, dropout=0.1, validation=held_out)
    broken = Watch(stop_after=step)
    with pytest.raises(TrainingCancelledError, match=f"after step {step} of 8"):
        run(base, tmp_path / "broken", broken, dropout=0.1, validation=held_out)
    assert not (tmp_path / "broken" / "adapter").exists()
    assert (tmp_path / "broken" / "work" / f"checkpoint-{step:08d}").is_dir()
    rest = Watch()
    resumed = run(base, tmp_path / "broken", rest, dropout=0.1, validation=held_out)
    assert [report.step for report in rest.reports] == list(range(step, 9))
    assert [report.loss for report in rest.reports] == pytest.approx([report.loss for report in whole.reports[step:]], abs=1e-5)
    assert resumed.metrics.eval_loss == pytest.approx(uninterrupted.metrics.eval_loss, abs=1e-5)
    assert resumed.metrics.eval_loss_before == uninterrupted.metrics.eval_loss_before
    assert same_weights(resumed.folder, uninterrupted.folder)


def test_training_that_is_done_resumes_to_its_adapter_without_learning_again(
    base: Path, tmp_path: Path, same_weights: SameWeights
) -> None:
    first = run(base, tmp_path)
    copy = first.folder.rename(tmp_path / "first")
    watch = Watch()
    again = run(base, tmp_path, watch)
    assert [report.step for report in watch.reports] == [8]
    assert same_weights(again.folder, copy)


def test_cancel_is_seen_between_two_forward_passes_of_a_step(base: Path, tmp_path: Path) -> None:
    asked = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) == 4

    settings = SETTINGS.model_copy(update={"batch_size": 1, "gradient_accumulation": 7})
    with pytest.raises(TrainingCancelledError, match="after step 0 of 2"):
        train(base, questions(), settings, work=tmp_path / "work", output=tmp_path / "adapter", cancelled=cancelled)
    assert not (tmp_path / "work").exists()


def test_checkpoint_of_other_data_or_settings_is_not_resumed(base: Path, tmp_path: Path) -> None:
    run(base, tmp_path)
    with pytest.raises(CheckpointMismatchError, match="other data or settings"):
        run(base, tmp_path, rank=8)


def test_early_stop_gives_the_adapter_of_the_best_evaluation(base: Path, tmp_path: Path, same_weights: SameWeights) -> None:
    """Held out are the same questions with other answers: learning more makes it worse."""
    contradicting = [ask(example.turns[0].text, "~~~~") for example in questions()]
    watch = Watch()
    result = run(base, tmp_path, watch, epochs=50, validation=contradicting, early_stopping_patience=2, checkpoint_every_steps=1)
    evaluations = {report.step: report.eval_loss for report in watch.reports[1:]}
    best = min(evaluations, key=lambda step: evaluations[step] or 0.0)
    assert result.metrics.steps == best + 2 < 200
    assert (result.metrics.best_step, result.metrics.eval_loss) == (best, evaluations[best])
    assert same_weights(result.folder, tmp_path / "work" / f"checkpoint-{best:08d}")
    assert not same_weights(result.folder, tmp_path / "work" / f"checkpoint-{best + 2:08d}")


def test_validation_share_is_held_out(base: Path, tmp_path: Path) -> None:
    whole, part = run(base, tmp_path / "whole").metrics, run(base, tmp_path / "part", validation_share=0.3).metrics
    assert part.training_tokens < whole.training_tokens
    assert part.eval_loss_before is not None and whole.eval_loss_before is None


def test_named_target_modules_alone_get_an_adapter(base: Path, tmp_path: Path) -> None:
    weights = load_file(run(base, tmp_path, target_modules=("q_proj", "v_proj")).folder / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj"}


def test_all_linear_layers_but_the_output_get_one_by_default(base: Path, tmp_path: Path) -> None:
    weights = load_file(run(base, tmp_path).folder / "adapter_model.safetensors")
    layers = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-3] for name in weights} == layers


@pytest.mark.parametrize("name", ["query", "lm_head", "proj"])
def test_unknown_target_module_is_refused_with_the_names_there_are(base: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequestError, match=rf"'{name}'.* down_proj, gate_proj, k_proj, o_proj, q_proj") as caught:
        run(base, tmp_path, target_modules=("q_proj", name))
    assert caught.value.param == "target_modules"


def test_qlora_learns_on_a_base_in_four_bits(base: Path, tmp_path: Path) -> None:
    watch = Watch()
    metrics = run(base, tmp_path, watch, method="qlora", epochs=8, validation=questions()[:3]).metrics
    assert metrics.eval_loss < metrics.eval_loss_before
    assert watch.losses[-1] < watch.losses[0] * 0.7
    plain = losses_of(base, tmp_path / "plain", epochs=1)
    assert watch.losses[0] != pytest.approx(plain[0], abs=1e-5)  # its weights are rounded to NF4


@pytest.mark.parametrize("method", ["lora", "qlora"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_evaluations_change_nothing_of_what_is_learned(base: Path, tmp_path: Path, method: str, precision: str) -> None:
    plain = losses_of(base, tmp_path / "plain", method=method, precision=precision)
    evaluated = Watch()
    run(base, tmp_path / "evaluated", evaluated, validation=questions()[:3], method=method, precision=precision)
    assert evaluated.losses == pytest.approx(plain, abs=1e-5)


def test_base_in_bfloat16_learns_with_weights_of_the_adapter_in_float32(base: Path, tmp_path: Path) -> None:
    losses = losses_of(base, tmp_path, precision="bfloat16", epochs=8)
    assert losses[-1] < losses[0] * 0.7
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_loss_that_is_no_number_ends_the_training_and_leaves_no_adapter(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.losses.functional.cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
    with pytest.raises(TrainingDivergedError, match="At step 1 the loss is no number"):
        run(base, tmp_path)
    assert not (tmp_path / "adapter").exists()
    assert not (tmp_path / "work").exists()


def test_examples_without_room_for_an_answer_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="within 16 tokens") as caught:
        run(base, tmp_path, max_tokens=16)
    assert caught.value.param == "max_tokens"


def test_longer_examples_than_the_model_reads_are_cut(base: Path, tmp_path: Path) -> None:
    long = Example((Turn("user", "?"), Turn("assistant", "x" * 500, is_trained=True)), line=1)
    settings = SETTINGS.model_copy(update={"max_tokens": 4096, "epochs": 1})
    result = train(base, [long], settings, work=tmp_path / "work", output=tmp_path / "adapter")
    assert (result.metrics.training_tokens, result.metrics.truncated) == (128, 1)


def test_early_stopping_without_validation_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="validation_share"):
        run(base, tmp_path, early_stopping_patience=1)


def test_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "raw")
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(InvalidRequestError, match="no chat template"):
        run(folder, tmp_path)


def test_model_that_may_carry_code_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_model(tmp_path / "pickled")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigurationError, match=r"pytorch_model\.bin may carry code"):
        run(folder, tmp_path)


def test_holes_in_the_heap_go_back_to_the_system() -> None:
    blocks = [bytes(100_000) for _ in range(2_000)]
    last = blocks[-1]
    blocks.clear()
    held_bytes = psutil.Process().memory_info().rss
    return_free_memory()
    assert psutil.Process().memory_info().rss < held_bytes - 100_000_000
    assert last
