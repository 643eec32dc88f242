"""The account that conversations and preferences belong to, held while something is stored for it.

Whoever deletes a user deletes the keys first and what the user stored after them, so it waits for what is held here, and
nothing is stored for a user that is gone.
"""

from aihub.core.errors import AuthenticationError
from aihub.core.postgres import Connection
from aihub.core.principal import Principal


async def hold_owner(connection: Connection, principal: Principal) -> None:
    """Keep the caller's key, and so its user, from being deleted before the end of the transaction.

    Callers without a key have no account that could be deleted.

    Raises:
        AuthenticationError: It was deleted; replicas believe a key for some seconds.
    """
    if principal.key_id is None:
        return
    cursor = await connection.execute(
        "SELECT FROM api_keys WHERE tenant_id = %s AND id = %s FOR KEY SHARE", (principal.tenant_id, principal.key_id)
    )
    if await cursor.fetchone() is None:
        raise AuthenticationError("The API key was deleted. Ask an administrator of the hub for another.")
