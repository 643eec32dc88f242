from pathlib import Path

from aihub.core.errors import ModelUnavailableError
from aihub.models.keys import ModelKey, parse_key
from aihub.models.store.installs import InstallStore
from aihub.models.store.validation import Prober, Speed, Validator

KEY = parse_key("hf:Qwen/Qwen2.5-0.5B-Instruct")


class FakeProber:
    def __init__(self, *, fails: bool = False) -> None:
        self.loaded: list[ModelKey] = []
        self._fails = fails

    async def load(self, key: ModelKey) -> None:
        self.loaded.append(key)
        if self._fails:
            raise ModelUnavailableError("Hết bộ nhớ.")

    async def measure(self, key: ModelKey) -> Speed:
        return Speed("tokens/s", 65.0)


def install(tmp_path: Path) -> InstallStore:
    store = InstallStore(tmp_path / "installs")
    (store.staging(KEY) / "model.safetensors").write_bytes(b"weights")
    store.publish(KEY, store.staging(KEY), digest="a" * 40, source="test")
    return store


def make(tmp_path: Path, store: InstallStore, prober: Prober | None = None) -> Validator:
    def find(key: ModelKey) -> list[Path]:
        current = store.current(key)
        return [current.path] if current is not None else []

    return Validator(tmp_path / "validations.jsonl", find, prober)


async def test_whole_model_is_good_loads_and_gets_a_speed(tmp_path: Path) -> None:
    result = await make(tmp_path, install(tmp_path), FakeProber()).validate(KEY)
    assert (result.is_good, result.integrity, result.load, result.speed) == (True, "good", "good", Speed("tokens/s", 65.0))
    assert result.load_s is not None


async def test_flipped_byte_is_named_and_the_model_is_not_loaded(tmp_path: Path) -> None:
    store, prober = install(tmp_path), FakeProber()
    current = store.current(KEY)
    assert current is not None
    (current.path / "model.safetensors").write_bytes(b"weightX")
    result = await make(tmp_path, store, prober).validate(KEY)
    assert (result.is_good, result.damaged, result.load) == (False, ("aaaaaaaaaaaa/model.safetensors",), "unknown")
    assert "aihub models download --models hf:Qwen" in result.detail
    assert prober.loaded == []


async def test_model_that_does_not_load_is_bad_and_says_why(tmp_path: Path) -> None:
    result = await make(tmp_path, install(tmp_path), FakeProber(fails=True)).validate(KEY)
    assert (result.is_good, result.load, result.detail) == (False, "bad", "Hết bộ nhớ.")


async def test_without_a_prober_or_hashes_the_result_says_unknown(tmp_path: Path) -> None:
    validator = make(tmp_path, InstallStore(tmp_path / "installs"))
    result = await validator.validate(parse_key("ollama:gemma2:9b"))
    assert (result.is_good, result.integrity, result.load) == (True, "unknown", "unknown")
    assert "no stored hashes" in result.detail


async def test_loading_can_be_left_out(tmp_path: Path) -> None:
    prober = FakeProber()
    await make(tmp_path, install(tmp_path), prober).validate(KEY, with_load=False)
    assert prober.loaded == []


async def test_history_is_kept_over_a_restart_and_a_cut_line(tmp_path: Path) -> None:
    store = install(tmp_path)
    await make(tmp_path, store, FakeProber()).validate(KEY)
    with (tmp_path / "validations.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"key": "hf:Qw\n')
    await make(tmp_path, store, FakeProber(fails=True)).validate(KEY)
    validator = make(tmp_path, store)
    assert [line["load"] for line in validator.history(KEY)] == ["good", "bad"]
    assert validator.history(parse_key("vosk:vi")) == []
    assert validator.latest()[str(KEY)]["detail"] == "Hết bộ nhớ."
