import ast
from importlib.util import find_spec
from pathlib import Path

import pytest

from aihub.chat.completions import CompletionRequest
from aihub.chat.sampling import REFUSED_FIELDS, SamplingRequest
from aihub.chat.schemas import ChatCompletionRequest
from aihub.core.errors import InvalidRequestError
from aihub.core.schemas import validate


def vllm_fields(part: str, class_name: str) -> set[str]:
    """Fields of a request class in the installed vLLM, read from its source: importing it takes many seconds."""
    spec = find_spec("vllm")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("vLLM is not installed")
    source = Path(spec.submodule_search_locations[0], "entrypoints", "openai", part, "protocol.py")
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name]
    names = {node.target.id for node in found.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize(
    ("part", "request_type"), [("chat_completion", ChatCompletionRequest), ("completion", CompletionRequest)]
)
def test_every_field_of_the_engine_is_supported_or_refused(part: str, request_type: type[SamplingRequest]) -> None:
    """A field that an engine upgrade brings must be decided on, not be ignored by chance."""
    fields = vllm_fields(part, request_type.__name__)
    assert len(fields) > 30
    assert fields - set(request_type.model_fields) - set(REFUSED_FIELDS) == set()


@pytest.mark.parametrize("field", sorted(REFUSED_FIELDS))
def test_harmless_value_of_a_refused_field_is_let_through(field: str) -> None:
    for value in REFUSED_FIELDS[field]:
        request = validate(CompletionRequest, {"model": "m", "prompt": "a", field: value})
        assert field not in request.to_engine_body()


def test_refusal_says_what_to_use_instead() -> None:
    with pytest.raises(InvalidRequestError, match="response_format"):
        validate(CompletionRequest, {"model": "m", "prompt": "a", "guided_json": {}})
