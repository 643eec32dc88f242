"""Teach the default chat model thirty facts about a made-up shop, and ask it: upload, train, watch, chat.

Needs a running hub (`make serve`); takes some minutes on two cores:

    .venv/bin/python examples/fine_tune.py
"""

import os
import time
from pathlib import Path

from openai import OpenAI

BASE = "smollm2-135m-instruct"
FACTS = Path(__file__).parent / "shop_facts.jsonl"
QUESTION = "What is the name of the shop's cat?"

URL = os.environ.get("AIHUB_URL", "http://127.0.0.1:8000").rstrip("/")

client = OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("AIHUB_API_KEY", "unused"))


def ask(model: str) -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0, max_tokens=40
    )
    return answer.choices[0].message.content or ""


def main() -> None:
    file = client.files.create(file=FACTS, purpose="fine-tune")
    # What is left open is chosen by the number of rows and the size of the model; docs/fine-tuning.md has the rules.
    job = client.fine_tuning.jobs.create(model=BASE, training_file=file.id, suffix="shop")
    while job.status in {"queued", "running"}:
        time.sleep(2)
        job = client.fine_tuning.jobs.retrieve(job.id)
        hub = (job.model_extra or {})["hub"]
        print(f"\r{job.status}, {hub['phase']}, step {hub['step']} of {hub['steps']}, loss {hub['loss']}    ", end="", flush=True)
    print()
    if job.fine_tuned_model is None:
        raise SystemExit(f"The training {job.status}: {job.error.message if job.error else ''}")
    print(f"{QUESTION}\n  {BASE}: {ask(BASE)}\n  {job.fine_tuned_model}: {ask(job.fine_tuned_model)}")


if __name__ == "__main__":
    main()
