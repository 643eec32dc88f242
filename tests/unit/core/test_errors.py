import pickle
import re

import pytest

from aihub.chat.providers import failures
from aihub.core import errors
from aihub.core.errors import HubError

TREE = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HubError)]


@pytest.mark.parametrize("error_type", TREE, ids=lambda error_type: error_type.__name__)
def test_error_crosses_a_process_border_unchanged(error_type: type[HubError]) -> None:
    error = error_type("Không được.", param="model", code="some_code", retry_after_s=7)
    # Serve moves exceptions between processes with pickle; the bytes here are our own.
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    assert type(copy) is error_type
    assert (copy.message, copy.param, copy.code, copy.retry_after_s) == ("Không được.", "model", "some_code", 7)


@pytest.mark.parametrize("error_type", TREE, ids=lambda error_type: error_type.__name__)
def test_retryable_errors_say_when_to_retry(error_type: type[HubError]) -> None:
    assert (error_type.retry_after_s is not None) == error_type.retryable


def test_openai_shape_has_exactly_the_four_fields() -> None:
    body = errors.NotFoundError("No such model.", param="model", code="model_not_found").to_openai()
    assert body == {
        "error": {"message": "No such model.", "type": "invalid_request_error", "param": "model", "code": "model_not_found"}
    }


@pytest.mark.parametrize(
    "error_type",
    [value for value in vars(failures).values() if isinstance(value, type) and issubclass(value, HubError)] + TREE,
    ids=lambda error_type: error_type.__name__,
)
def test_tree_in_the_docstring_names_every_error_with_its_status(error_type: type[HubError]) -> None:
    if error_type is not HubError:
        assert re.search(rf"[├└]── {error_type.__name__} +{error_type.status}\b", str(errors.__doc__))
