"""A plain loop of torch and peft, as the peer of `make bench-train`: what one writes by hand, in a process of its own.

The data are questions of banking77 with their intents; the order of the rows, the batches and the schedule are those of the hub's
training.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aihub.core.hardware import read_peak_memory_bytes
from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.finetuning.examples import Example, Turn
from aihub.finetuning.settings import FineTuningSettings
from aihub.models.store.default_models import prepare_chat_model, select_chat_model
from benchmarks.retrieval_quality import DATA


def run_in_process(rows: int, batch_size: int) -> dict[str, float]:
    """Train on so many rows in a new process; return `tokens_per_s`, `memory_bytes`, `seconds` and the last `loss`."""
    command = [sys.executable, "-m", "benchmarks.peft_loop", "--rows", str(rows), "--batch-size", str(batch_size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    options = parser.parse_args()
    settings = FineTuningSettings(**describe_settings(options.batch_size, packing=False))
    print(json.dumps(train(_base(), read_rows(options.rows), settings)))


def describe_settings(batch_size: int, *, packing: bool) -> dict[str, Any]:
    """The settings of both sides."""
    return {"epochs": 1, "batch_size": batch_size, "rank": 8, "alpha": 16, "max_tokens": 256, "packing": packing}


def read_rows(count: int) -> list[Example]:
    """The first rows of every intent in turn: questions, with the name of the intent as the answer."""
    with (DATA / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    step = max(1, len(rows) // count)
    return [
        Example((Turn("user", row["text"]), Turn("assistant", row["category"], is_trained=True)), line)
        for line, row in enumerate(rows[::step][:count], 1)
    ]


def train(base: Path, examples: Sequence[Example], settings: FineTuningSettings) -> dict[str, float]:
    """What one writes with peft: a padded batch, its mask and labels, the model's own loss."""
    import time

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer, get_cosine_schedule_with_warmup

    from training.adapters import choose_precision
    from training.batches import shuffled

    tokenizer = AutoTokenizer.from_pretrained(base)
    dtype = choose_precision(settings, torch.device("cpu"))
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base, dtype=dtype),
        LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    rows = [_tokenize(tokenizer, example) for example in examples]
    steps = -(-len(rows) // settings.batch_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], settings.learning_rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, int(steps * settings.warmup_share), steps)
    order = shuffled(len(rows), seed=settings.seed, epoch=0)
    model.train()
    tokens, loss, started_s = 0, 0.0, time.perf_counter()
    for step in range(steps):
        chosen = [rows[n] for n in order[step * settings.batch_size :][: settings.batch_size]]
        batch = _pad(chosen)
        output = model(**batch, use_cache=False)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += sum(len(ids) for ids, _ in chosen)
        loss = float(output.loss.detach())
    seconds = time.perf_counter() - started_s
    memory_bytes = read_peak_memory_bytes()
    return {"tokens_per_s": tokens / seconds, "memory_bytes": memory_bytes, "seconds": seconds, "loss": loss}


def _tokenize(tokenizer: Any, example: Example) -> tuple[list[int], int]:
    """Ids up to the end marker, and how many of them are the prompt's."""
    messages = [{"role": turn.role, "content": turn.text} for turn in example.turns]
    prompt = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(messages, tokenize=False).rstrip("\n")
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return ids, len(tokenizer(prompt, add_special_tokens=False)["input_ids"])


def _pad(rows: list[tuple[list[int], int]]) -> dict[str, Any]:
    import torch

    width = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for number, (row, prompt) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        mask[number, : len(row)] = 1
        labels[number, prompt : len(row)] = torch.tensor(row[prompt:])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def _base() -> Path:
    settings = Settings()
    return prepare_chat_model(select_chat_model(settings, load_profile(settings.profile)).source, settings)


if __name__ == "__main__":
    main()
