"""The one error tree of the hub.

HubError
├── InvalidRequestError      400  the request is wrong; the message says what to change
│   ├── ContextLengthError   400  prompt plus answer do not fit the model's context
│   ├── UnsupportedMediaError 415 content type, charset or encoding the endpoint does not read
│   ├── PayloadTooLargeError 413  body or file over the limit
│   ├── RequestTimeoutError  408  the body did not arrive in time
│   ├── NotFoundError        404  the named thing does not exist (for this tenant)
│   ├── MethodNotAllowedError 405
│   └── ConflictError        409  the thing is in a state which forbids the action
├── AuthenticationError      401  no key, or none that is known
├── PermissionDeniedError    403  the key is known, and not for this
├── RateLimitError           429  too many requests of this caller; carries Retry-After
├── UnavailableError         503  a part is down or full; carries Retry-After
│   ├── OverloadedError      503  queues are full
│   ├── StorageUnavailableError 503 PostgreSQL does not answer
│   └── ModelUnavailableError 503 the model is not loaded, is loading or has died
│       └── ProviderUnavailableError 503 a remote provider is down or left alone for a while (*)
│           └── ProviderNotConfiguredError 503 its key or URL is missing (*)
├── EngineTimeoutError       504  the engine did not answer in time
├── ProviderError            502  a remote provider answered with something that is no answer (*)
│   └── ProviderKeyError     502  it refuses the hub's key (*)
├── ProviderRetiredError     410  a remote provider was shut down by its owner (*)
└── InternalError            500  a bug; details go to the log, never to the client
    └── ConfigurationError   500  settings, profile or Serve config are wrong (raised at start-up)

(*) in `aihub.chat.providers.failures`; further children live beside what raises them (`aihub.models.store.downloads.failures`).

`aihub.http.errors` renders any of them in OpenAI's shape; Serve handles carry them unchanged.
"""

from typing import Any


class HubError(Exception):
    """Base of every error the hub raises on purpose.

    Args:
        message: What is wrong and what to do about it. Shown to the client.
        param: The request field at fault, dotted (`messages.0.content`), if one is.
        code: Overrides the class's stable machine-readable code.
        retry_after_s: Seconds after which a retry makes sense (sent as `Retry-After`).
    """

    status: int = 500
    type: str = "server_error"
    code: str = "internal_error"
    retryable: bool = False
    retry_after_s: int | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        """Cross process borders (Serve handles) with every field; keyword-only arguments need help."""
        return _rebuild, (type(self), self.message, self.param, self.code, self.retry_after_s)

    def to_openai(self) -> dict[str, Any]:
        """Return OpenAI's error object: `{"error": {"message", "type", "param", "code"}}`."""
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def _rebuild(cls: type[HubError], message: str, param: str | None, code: str, retry_after_s: int | None) -> HubError:
    return cls(message, param=param, code=code, retry_after_s=retry_after_s)


class InvalidRequestError(HubError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextLengthError(InvalidRequestError):
    code = "context_length_exceeded"


class UnsupportedMediaError(InvalidRequestError):
    status = 415
    code = "unsupported_media_type"


class PayloadTooLargeError(InvalidRequestError):
    status = 413
    code = "payload_too_large"


class RequestTimeoutError(InvalidRequestError):
    status = 408
    code = "request_timeout"


class NotFoundError(InvalidRequestError):
    status = 404
    code = "not_found"


class MethodNotAllowedError(InvalidRequestError):
    status = 405
    code = "method_not_allowed"


class ConflictError(InvalidRequestError):
    status = 409
    code = "conflict"


class AuthenticationError(HubError):
    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDeniedError(HubError):
    status = 403
    type = "permission_error"
    code = "permission_denied"


class RateLimitError(HubError):
    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"
    retryable = True
    retry_after_s = 1


class UnavailableError(HubError):
    status = 503
    type = "service_unavailable"
    code = "service_unavailable"
    retryable = True
    retry_after_s = 5


class OverloadedError(UnavailableError):
    code = "overloaded"
    retry_after_s = 1


class StorageUnavailableError(UnavailableError):
    code = "storage_unavailable"


class ModelUnavailableError(UnavailableError):
    code = "model_unavailable"
    retry_after_s = 10


class EngineTimeoutError(HubError):
    status = 504
    code = "engine_timeout"
    retryable = True
    retry_after_s = 5


class InternalError(HubError):
    """A bug or a broken promise of a part; the client sees a stable message only."""


class ConfigurationError(InternalError):
    code = "configuration_error"
