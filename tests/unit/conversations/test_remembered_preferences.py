from aihub.conversations.remembered_preferences import RememberedPreferences
from aihub.conversations.tables.records import PreferencesRecord
from aihub.core.errors import StorageUnavailableError
from aihub.core.principal import Principal

LAN = Principal("t", user_id="lan")


class Stored:
    """Preferences of everybody, and how often they were read."""

    def __init__(self) -> None:
        self.record = PreferencesRecord(favourite_model="qwen3-8b")
        self.reads = 0
        self.is_away = False

    async def read(self, principal: Principal) -> PreferencesRecord:
        self.reads += 1
        if self.is_away:
            raise StorageUnavailableError("away")
        return self.record


async def test_preferences_are_read_once_in_a_while() -> None:
    stored = Stored()
    remembered = RememberedPreferences(stored.read)
    assert [await remembered.favourite_model(LAN) for _ in range(3)] == ["qwen3-8b"] * 3
    assert stored.reads == 1


async def test_change_counts_after_the_memory_has_ended() -> None:
    stored = Stored()
    remembered = RememberedPreferences(stored.read, memory_s=0)
    await remembered.get(LAN)
    stored.record = PreferencesRecord(language="vi")
    assert (await remembered.get(LAN)).language == "vi"


async def test_outage_keeps_what_was_known_and_prefers_nothing_else() -> None:
    stored = Stored()
    remembered = RememberedPreferences(stored.read, memory_s=0)
    await remembered.get(LAN)
    stored.is_away = True
    assert await remembered.favourite_model(LAN) == "qwen3-8b"
    assert await remembered.get(Principal("t", user_id="minh")) == PreferencesRecord()
