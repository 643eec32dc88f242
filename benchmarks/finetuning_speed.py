"""`make bench-train`: training of an adapter beside a plain loop of torch and peft, same settings; packing beside padding.

Each arm runs in a process of its own, so that its peak memory is its own. The data are questions of banking77 with their
intents; the order of the rows, the batches and the schedule are the same in all arms.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aihub.core.profiles import load_profile
from aihub.core.settings import Settings
from aihub.finetuning.examples import Example, Turn
from aihub.finetuning.settings import FineTuningSettings
from aihub.models.store.default_models import prepare_chat_model, select_chat_model
from benchmarks.retrieval_quality import DATA

ARMS = ("bare", "padded", "packed")
TITLES = {
    "bare": "plain loop of torch and peft, padded",
    "padded": "training.lora, padded",
    "packed": "training.lora, packed",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1, help="each arm in turn, so often; medians are shown")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not (DATA / "banking77").is_dir():
        print("banking77 is not here: set AIHUB_SHARED_DATA to a folder that holds it.")
        return
    settings = FineTuningSettings(**describe_settings(options.batch_size, packing=options.arm == "packed"))
    if options.arm:
        run = run_bare if options.arm == "bare" else run_hub
        print(json.dumps(run(_base(), read_rows(options.rows), settings)))
        return
    print(f"{'':<40}{'tokens/s':>10}{'peak MB':>9}{'seconds':>9}{'last loss':>11}", flush=True)
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds):
        for arm in ARMS:
            found[arm].append(run_arm(arm, options.rows, options.batch_size))
    best = {arm: sorted(rows, key=lambda row: row["tokens_per_s"])[len(rows) // 2] for arm, rows in found.items()}
    for arm, row in best.items():
        figures = f"{row['tokens_per_s']:>10.1f}{row['memory_bytes'] / 1e6:>9.0f}{row['seconds']:>9.1f}{row['loss']:>11.4f}"
        print(f"{TITLES[arm]:<40}{figures}")
    bare = best["bare"]["tokens_per_s"]
    print(f"training.lora beside the plain loop, both padded: {best['padded']['tokens_per_s'] / bare:.2f} (aim 0.95)")
    print(f"packing beside padding: {best['packed']['tokens_per_s'] / best['padded']['tokens_per_s']:.2f}")


def describe_settings(batch_size: int, *, packing: bool) -> dict[str, Any]:
    """The settings of all arms."""
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


def run_hub(base: Path, examples: list[Example], settings: FineTuningSettings) -> dict[str, float]:
    from training.lora import train

    with tempfile.TemporaryDirectory() as folder:
        done = train(base, examples, settings, work=Path(folder) / "work", output=Path(folder) / "adapter").metrics
    return {"tokens_per_s": done.tokens_per_s, "memory_bytes": done.memory_bytes, "seconds": done.seconds, "loss": done.loss}


def run_bare(base: Path, examples: list[Example], settings: FineTuningSettings) -> dict[str, float]:
    """What one writes with peft: a padded batch, its mask and labels, the model's own loss."""
    import resource

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
    memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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


def run_arm(arm: str, rows: int, batch_size: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.finetuning_speed", "--arm", arm, "--rows", str(rows)]
    done = subprocess.run([*command, "--batch-size", str(batch_size)], stdout=subprocess.PIPE, check=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _base() -> Path:
    settings = Settings()
    return prepare_chat_model(select_chat_model(settings, load_profile(settings.profile)).source, settings)


if __name__ == "__main__":
    main()
