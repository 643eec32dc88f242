"""Fine-tuning as clients use it: a running hub, the official `openai` client, real data; part of `make bench-train`.

Each row uploads a data set, trains an adapter of the default chat model, and asks base and adapter of the same engine, greedily
and word for word. Meanwhile somebody else chats with the base every few seconds.
"""

import argparse
import csv
import gzip
import io
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import OpenAI, OpenAIError

from benchmarks import peft_loop
from benchmarks.retrieval_quality import DATA
from benchmarks.servers import running_hub

POLL_S = 2.0
CHAT_PERIOD_S = 5.0
FACTS = Path(__file__).resolve().parents[1] / "examples" / "shop_facts.jsonl"
CONCURRENCY = 8
INTENT = "Name the intent."
"""System message of banking77: shorter than the one that the model's template would write."""

Row = tuple[list[dict[str, str]], str]
"""The messages up to the question, and the answer."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One data set with its settings.

    Attributes:
        asked: Rows whose answers are counted; none where only the loss tells.
        validation: Rows to measure the loss on.
        choices: Names of which one must be answered in a second pass.
        answer_tokens: Most that are asked for; the base would go on and on.
    """

    title: str
    training: Sequence[Row]
    lora: dict[str, Any]
    asked: Sequence[Row] = ()
    validation: Sequence[Row] = ()
    choices: Sequence[str] = ()
    answer_tokens: int = 64


@dataclass(slots=True)
class OtherChats:
    """What happened to the chats of somebody else."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("speed", "facts", "facts-qlora", "instruct-vi", "banking77"), nargs="*")
    parser.add_argument("--rows", type=int, default=3000, help="of banking77")
    parser.add_argument("--seed", type=int, default=1, help="chooses the rows of banking77")
    parser.add_argument("--asked", type=int, default=1540, help="test rows of banking77 that are asked")
    options = parser.parse_args()
    trials: dict[str, Callable[[], Trial]] = {
        "facts": lambda: facts("lora", epochs=12),
        "facts-qlora": lambda: facts("qlora", epochs=16),
        "instruct-vi": instruct_vi,
        "banking77": lambda: banking77(options.rows, options.seed, options.asked),
    }
    with tempfile.TemporaryDirectory() as folder, running_hub(Path(folder) / "hub.log", {"AIHUB_HOME": f"{folder}/home"}) as url:
        client = OpenAI(base_url=f"{url}/v1", api_key=os.environ.get("AIHUB_API_KEY", "none"), max_retries=5, timeout=600)
        base = client.models.list().data[0].id
        for name in options.only or ("speed", *trials):
            if name == "speed":
                compare_speed(client, base)
            elif name.startswith("facts") or (DATA / name).is_dir():
                run(client, base, trials[name]())
            else:
                print(f"{name} is not here: set AIHUB_SHARED_DATA to a folder that holds it.")


def compare_speed(client: OpenAI, base: str) -> None:
    """Print tokens a second and memory of the hub's job beside those of a plain loop of torch and peft, while the hub idles."""
    rows, batch_size = 320, 16
    trial = [
        ([{"role": "user", "content": example.turns[0].text}], example.turns[1].text) for example in peft_loop.read_rows(rows)
    ]
    print(f"\nspeed: {rows} rows of banking77", flush=True)
    found = {"plain loop of torch and peft": peft_loop.run_in_process(rows, batch_size)}
    for title, packing in (("the hub's job, padded", False), ("the hub's job, packed", True)):
        lora = peft_loop.describe_settings(batch_size, packing=packing)
        job = train(client, base, Trial(title, trial, lora))
        found[title] = job["metrics"]
    for title, figures in found.items():
        print(f"  {title:<30}{figures['tokens_per_s']:>8.1f} tokens/s{figures['memory_bytes'] / 1e6:>8.0f} MB")
    bare, padded, packed = (figures["tokens_per_s"] for figures in found.values())
    print(
        f"  job beside loop, both padded: {padded / bare:.2f} (aim 0.95); packing beside padding: {packed / padded:.2f}",
        flush=True,
    )


def facts(method: str, *, epochs: int) -> Trial:
    facts = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    rows = [([{"role": "user", "content": fact["prompt"]}], fact["completion"]) for fact in facts]
    lora = {"method": method, "rank": 16, "alpha": 32, "dropout": 0.1, "learning_rate": 2e-3, "batch_size": 5, "epochs": epochs}
    return Trial(f"30 facts of a shop, {method}", rows, lora, asked=rows)


def instruct_vi() -> Trial:
    def read(name: str, most: int) -> list[Row]:
        with gzip.open(DATA / "instruct-vi" / name, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        step = max(1, len(rows) // most)
        return [
            ([{"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"}], row["output"])
            for row in rows[::step][:most]
        ]

    lora = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 1, "max_tokens": 1024}
    return Trial("instruct-vi", read("train.jsonl.gz", 60), lora, validation=read("eval.jsonl.gz", 20))


def banking77(rows: int, seed: int, asked: int) -> Trial:
    def read(name: str) -> list[Row]:
        with (DATA / "banking77" / name).open(encoding="utf-8", newline="") as file:
            return [
                ([{"role": "system", "content": INTENT}, {"role": "user", "content": row["text"]}], row["category"])
                for row in csv.DictReader(file)
            ]

    training, test = read("train.csv"), read("test_a.csv")
    random.Random(seed).shuffle(training)  # noqa: S311  # which rows, not a secret
    random.Random(seed).shuffle(test)  # noqa: S311
    lora = {"rank": 32, "alpha": 64, "learning_rate": 2e-3, "batch_size": 16, "epochs": 3, "max_tokens": 128}
    names = sorted({answer for _, answer in training})
    return Trial(f"banking77, {rows} rows", training[:rows], lora, asked=test[:asked], choices=names, answer_tokens=24)


def run(client: OpenAI, base: str, trial: Trial) -> None:
    """Train and ask; print what came out."""
    print(f"\n{trial.title}: {len(trial.training)} rows, {json.dumps(trial.lora)}", flush=True)
    if trial.asked:
        print(f"  base: {count_right(client, base, trial)} of {len(trial.asked)} word for word", flush=True)
    started_s = time.monotonic()
    with chatting(client, base) as others:
        told = train(client, base, trial)
    minutes = (time.monotonic() - started_s) / 60
    metrics, evaluation, adapter_id = told["metrics"], told["evaluation"], told["adapter_id"]
    print(
        f"  trained in {minutes:.1f} minutes: {metrics['tokens_per_s']:.0f} tokens/s, {metrics['memory_bytes'] / 1e9:.2f} GB, "
        f"loss {evaluation['base']['loss']:.3f} -> {evaluation['candidate']['loss']:.3f} on {evaluation['rows']} "
        f"{'held-out' if evaluation['is_held_out'] else 'trained'} rows"
    )
    print(f"  chats of others meanwhile: {len(others.seconds)}, slowest {max(others.seconds, default=0):.1f} s", end="")
    print(f", {len(others.failures)} failed {others.failures[:3] or ''}", flush=True)
    if trial.asked:
        right = count_right(client, adapter_id, trial)
        print(f"  adapter: {right} of {len(trial.asked)} word for word ({right / len(trial.asked):.3f})", flush=True)
    if trial.choices:
        right = count_right(client, adapter_id, trial, trial.choices)
        print(f"  adapter, one of {len(trial.choices)} names: {right} of {len(trial.asked)} ({right / len(trial.asked):.3f})")


def train(client: OpenAI, base: str, trial: Trial) -> dict[str, Any]:
    """Run the job of a trial to its end; return what the hub tells of it beside OpenAI's fields."""
    extra: dict[str, Any] = {"validation_file": upload(client, trial.validation)} if trial.validation else {}
    job = client.fine_tuning.jobs.create(
        model=base, training_file=upload(client, trial.training), suffix="bench", extra_body={"lora": trial.lora}, **extra
    )
    while job.status in {"queued", "running"}:
        time.sleep(POLL_S)
        job = client.fine_tuning.jobs.retrieve(job.id)
    if job.status != "succeeded":
        raise SystemExit(f"The training {job.status}: {job.error}")
    told: dict[str, Any] = (job.model_extra or {})["hub"]
    return told


def count_right(client: OpenAI, model: str, trial: Trial, choices: Sequence[str] = ()) -> int:
    """Ask all rows greedily; return how many answers are right word for word."""
    form: dict[str, Any] = {}
    if choices:
        schema = {"type": "string", "enum": list(choices)}
        form = {"response_format": {"type": "json_schema", "json_schema": {"name": "intent", "schema": schema}}}

    def is_right(row: Row) -> bool:
        messages, answer = row
        asked: Any = client.chat.completions.create
        text = (
            asked(model=model, messages=messages, temperature=0, max_tokens=trial.answer_tokens, **form)
            .choices[0]
            .message.content
            or ""
        )
        return bool((json.loads(text) if choices else text.strip()) == answer)

    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return sum(pool.map(is_right, trial.asked))


def upload(client: OpenAI, rows: Sequence[Row]) -> str:
    lines = [
        json.dumps({"messages": [*messages, {"role": "assistant", "content": answer}]}, ensure_ascii=False)
        for messages, answer in rows
    ]
    file = io.BytesIO("\n".join(lines).encode())
    return client.files.create(file=("rows.jsonl", file), purpose="fine-tune").id


@contextmanager
def chatting(client: OpenAI, model: str) -> Iterator[OtherChats]:
    """Chat with a model every `CHAT_PERIOD_S` until the block ends."""
    found, stop = OtherChats(), threading.Event()

    def chat() -> None:
        while not stop.wait(CHAT_PERIOD_S):
            started_s = time.monotonic()
            try:
                client.with_options(max_retries=0).chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
                )
                found.seconds.append(time.monotonic() - started_s)
            except OpenAIError as error:
                found.failures.append(str(error)[:200])

    thread = threading.Thread(target=chat, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


if __name__ == "__main__":
    main()
