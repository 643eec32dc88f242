"""GitHub Models: OpenAI's API at GitHub's address. Its owner retired it on 30 July 2026; the adapter says so when asked.

A GitHub Enterprise or a compatible gateway at another address keeps working with it.
"""

from aihub.errors import HubError
from aihub.providers.failures import ProviderRetiredError, Refusal, explain_refusal
from aihub.providers.openai_compatible import Dialect

GONE = frozenset({404, 410})

GITHUB = Dialect(
    left_out=frozenset({"ignore_eos", "min_p", "min_tokens", "repetition_penalty", "top_k"}),
    limit_field="max_tokens",
    completes_by_chat=True,
)


def explain_github_refusal(refusal: Refusal) -> HubError:
    """As `explain_refusal`, but gone means gone: a retired service, with what to use instead."""
    if refusal.status not in GONE:
        return explain_refusal(refusal)
    return ProviderRetiredError(
        f"GitHub Models answers {refusal.status}: the service was retired by its owner on 30 July 2026. Use the same model from "
        "OpenAI ('openai/gpt-4o-mini', needs OPENAI_API_KEY), one from Ollama ('ollama/gemma2:9b', needs OLLAMA_HOST), "
        "or a local model ('auto' chooses one)."
    )
