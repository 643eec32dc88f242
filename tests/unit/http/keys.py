"""Keys that tests of the edge know."""

from aihub.accounts.fake import FakeAuthenticator
from aihub.core.principal import Principal

ADMIN_KEY = "aihub_admin000_" + "a" * 43
USER_KEY = "aihub_user0000_" + "u" * 43


def known_keys() -> FakeAuthenticator:
    """A hub with one administrator and one user of a tenant."""
    return FakeAuthenticator(
        {
            ADMIN_KEY: Principal(tenant_id="shop", user_id="user_a", key_id="key_admin000"),
            USER_KEY: Principal(tenant_id="shop", role="user", user_id="user_b", key_id="key_user0000"),
        }
    )


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}
