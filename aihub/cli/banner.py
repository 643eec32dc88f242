"""What `aihub serve` prints when the hub is ready."""

import re
from pathlib import Path

_DASHBOARD = re.compile(r"dashboard at\s+(?:\x1b\[[0-9;]*m)*(https?://[^\s\x1b]+)")


def render(api_url: str, log_path: Path, model_id: str) -> str:
    """Return the addresses and one curl to paste."""
    return f"""
  API        {api_url}/v1        (any OpenAI client: base_url="{api_url}/v1", any api_key)
  API docs   {api_url}/docs
  Dashboard  {find_dashboard(log_path)}  (token: run `.venv/bin/ray get-auth-token`)
  Log        {log_path}

Try it:

  curl {api_url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "{model_id}", "max_tokens": 40, "temperature": 0,
         "messages": [{{"role": "user", "content": "Name the capital of France."}}]}}'

Ctrl-C stops everything.
"""


def find_dashboard(log_path: Path) -> str:
    """Return the address Ray printed; Ray takes the next port when 8265 is busy."""
    found = _DASHBOARD.search(log_path.read_text(encoding="utf-8", errors="replace"))
    return found.group(1) if found else "http://127.0.0.1:8265"
