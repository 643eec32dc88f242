"""The caller of a request. One tenant, `default`, until accounts exist; every stored row already carries `tenant_id`."""

from dataclasses import dataclass

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever sent the request; all storage calls are scoped by `tenant_id`."""

    tenant_id: str = DEFAULT_TENANT
