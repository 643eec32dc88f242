"""Conversations over PostgreSQL and over the memory that stands for it, for one owner of one tenant."""

import pytest

from aihub.chat.messages import check_message
from aihub.conversations.conversations import Conversations
from aihub.conversations.fake import MemoryStorage
from aihub.conversations.storage import Storage
from aihub.conversations.tables.store import ConversationStore
from aihub.core.principal import Principal


@pytest.fixture(params=["memory", "postgresql"])
def storage(request: pytest.FixtureRequest) -> Storage:
    return MemoryStorage() if request.param == "memory" else ConversationStore(request.getfixturevalue("database"))


@pytest.fixture
def conversations(storage: Storage) -> Conversations:
    return Conversations(storage, check_message)


@pytest.fixture
def principal(tenant: str) -> Principal:
    return Principal(tenant, user_id="user_linh")


@pytest.fixture(params=["other owner", "no owner", "other tenant"])
def stranger(request: pytest.FixtureRequest, principal: Principal) -> Principal:
    if request.param == "other tenant":
        return Principal(f"{principal.tenant_id}-2", user_id=principal.user_id)
    return Principal(principal.tenant_id, user_id=None if request.param == "no owner" else "user_minh")
