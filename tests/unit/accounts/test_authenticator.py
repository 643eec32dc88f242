import asyncio

import pytest

from aihub.accounts.authenticator import KeyAuthenticator
from aihub.core.errors import AuthenticationError
from aihub.core.postgres import Database
from aihub.core.principal import Principal
from tests.unit.accounts.account_parts import insert_key


async def test_key_is_recognised_and_another_secret_refused(database: Database, tenant: str) -> None:
    authenticator = KeyAuthenticator(database, is_local=True)
    key = await insert_key(database, tenant)
    principal = await authenticator.authenticate([f"Bearer {key.text}"])
    assert principal == Principal(tenant_id=tenant, role="admin", user_id=f"user_{key.prefix}", key_id=key.key_id)
    for wrong in ([], ["Bearer x"], [f"Bearer {key.text[:-1]}{'b' if key.text[-1] == 'a' else 'a'}"]):
        with pytest.raises(AuthenticationError):
            await authenticator.authenticate(wrong)
    await authenticator.close()


async def test_hundred_callers_at_once_make_one_query(database: Database, tenant: str) -> None:
    authenticator = KeyAuthenticator(database, is_local=False)
    key = await insert_key(database, tenant)
    queries = 0
    find = authenticator._recent._table.find

    async def counted(prefixes):  # type: ignore[no-untyped-def]
        nonlocal queries
        queries += 1
        return await find(prefixes)

    authenticator._recent._table.find = counted  # type: ignore[method-assign]
    found = await asyncio.gather(*(authenticator.authenticate([f"Bearer {key.text}"]) for _ in range(100)))
    assert {principal.key_id for principal in found} == {key.key_id}
    assert queries == 1
    await authenticator.close()
