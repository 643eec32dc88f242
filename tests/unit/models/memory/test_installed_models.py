import json
import logging
from pathlib import Path
from typing import Any

import pytest

from aihub.core.profiles import load_profile
from aihub.models.keys import parse_key
from aihub.models.memory.installed_models import DefaultModel, InstalledModels
from aihub.models.memory.requirement import GIB
from aihub.models.store.catalogue import load_catalogue
from aihub.models.store.installs import InstallStore

QWEN = parse_key("hf:Qwen/Qwen2.5-0.5B-Instruct")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 2048,
    "torch_dtype": "bfloat16",
}
WEIGHTS_BYTES = 1000


def write_model(folder: Path, config: Any = CONFIG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"x" * WEIGHTS_BYTES)
    return folder


class Machine:
    """A state folder with a default model."""

    def __init__(
        self,
        home: Path,
        *,
        profile: str = "cpu",
        dtype: str = "bfloat16",
        max_length: int | None = None,
        default_path: Path | None = None,
    ) -> None:
        self.models_path = home / "models"
        self.default_path = default_path or write_model(self.models_path / "default-made-by-the-hub")
        self.installs = InstallStore(home / "installs")
        self.installed = InstalledModels(
            load_profile(profile).with_max_length(max_length),
            dtype=dtype,
            default=DefaultModel("smollm2-135m-instruct", "package:smollm2", self.default_path),
            catalogue=load_catalogue(),
            installs=self.installs,
            models_path=self.models_path,
        )

    def install(self, letter: str, config: Any = CONFIG) -> Path:
        write_model(self.installs.staging(QWEN), config)
        return self.installs.publish(QWEN, self.installs.staging(QWEN), digest=letter * 40, source="test").path

    def put(self, name: str, config: Any = CONFIG) -> Path:
        return write_model(self.models_path / name, config)

    def ids(self) -> list[str]:
        return list(self.installed.read())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_default_model_comes_first_under_its_configured_name_and_only_once(machine: Machine) -> None:
    machine.put("another")
    assert machine.ids() == ["smollm2-135m-instruct", "another"]
    default = machine.installed.read()["smollm2-135m-instruct"]
    assert (default.spec.key, default.spec.path) == ("package:smollm2", machine.default_path)
    assert default.types == ("chat",)
    assert default.weights_bytes == WEIGHTS_BYTES


def test_default_model_that_is_an_install_has_its_digest_and_no_clean_up_takes_it(tmp_path: Path) -> None:
    path = Machine(tmp_path).install("a")
    machine = Machine(tmp_path, default_path=path)
    machine.install("b")
    default = machine.installed.read()["smollm2-135m-instruct"]
    assert (default.spec.path, default.spec.digest) == (path, "a" * 40)
    assert machine.installs.cleanup(1, in_use={default.spec.digest}, required=set()) == []


def test_installed_model_has_the_name_languages_and_parser_of_the_catalogue(machine: Machine) -> None:
    path = machine.install("a")
    model = machine.installed.read()["qwen2.5-0.5b-instruct"]
    assert (model.spec.path, model.spec.digest, model.spec.key) == (path, "a" * 40, str(QWEN))
    assert model.spec.tool_call_parser == "hermes"
    assert "vi" in model.languages


def test_newest_version_is_served_and_a_rollback_brings_the_older_one(machine: Machine) -> None:
    older, newer = machine.install("a"), machine.install("b", CONFIG | {"vocab_size": 200})
    assert machine.installed.read()["qwen2.5-0.5b-instruct"].spec.path == newer
    machine.installs.rollback(QWEN)
    assert machine.installed.read()["qwen2.5-0.5b-instruct"].spec.path == older


def test_another_model_under_the_same_name_has_another_fingerprint_and_a_rollback_has_the_old_one(machine: Machine) -> None:
    def fingerprint(model_id: str) -> str:
        return machine.installed.read()[model_id].spec.fingerprint

    machine.install("a")
    old = fingerprint("qwen2.5-0.5b-instruct")
    assert fingerprint("qwen2.5-0.5b-instruct") == old
    machine.install("b")
    assert fingerprint("qwen2.5-0.5b-instruct") != old
    machine.installs.rollback(QWEN)
    assert fingerprint("qwen2.5-0.5b-instruct") == old
    folder = machine.put("by-hand")
    first = fingerprint("by-hand")
    (folder / "model.safetensors").write_bytes(b"y" * WEIGHTS_BYTES)
    assert fingerprint("by-hand") != first


def test_folder_put_there_by_hand_is_served_in_small_letters(machine: Machine) -> None:
    machine.put("Shop-Assistant-VN")
    assert machine.installed.read()["shop-assistant-vn"].spec.key == "local:Shop-Assistant-VN"


@pytest.mark.parametrize(
    "config",
    [
        CONFIG | {"architectures": ["BertModel"]},
        CONFIG | {"architectures": []},
        CONFIG | {"architectures": "LlamaForCausalLM"},
        {name: value for name, value in CONFIG.items() if name != "architectures"},
        "not json",
        "[]",
    ],
)
def test_folder_that_holds_no_chat_model_is_passed_over(machine: Machine, config: Any) -> None:
    machine.put("other", config)
    assert machine.ids() == ["smollm2-135m-instruct"]


@pytest.mark.parametrize("change", [{"vocab_size": -1}, {"num_hidden_layers": None}, {"hidden_size": "many"}])
def test_model_that_cannot_be_served_is_logged_once_and_the_others_stay(
    machine: Machine, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    machine.put("broken", CONFIG | change)
    machine.put("good")
    with caplog.at_level(logging.WARNING):
        assert machine.ids() == ["smollm2-135m-instruct", "good"]
        assert machine.ids() == ["smollm2-135m-instruct", "good"]
    told = [record.getMessage() for record in caplog.records]
    assert len([text for text in told if "broken cannot be served" in text]) == 1


def test_default_model_that_is_gone_leaves_the_others(machine: Machine) -> None:
    machine.put("good")
    (machine.default_path / "config.json").unlink()
    assert machine.ids() == ["good"]


@pytest.mark.parametrize(
    ("config", "tokens"),
    [
        (CONFIG, 2048),
        (CONFIG | {"max_position_embeddings": 131072}, 4096),
        (CONFIG | {"max_position_embeddings": None}, 4096),
        (CONFIG | {"max_position_embeddings": "long"}, 4096),
        ({"architectures": ["XForConditionalGeneration"], "text_config": CONFIG}, 2048),
    ],
)
def test_context_is_the_profiles_or_the_models_where_that_is_shorter(machine: Machine, config: Any, tokens: int) -> None:
    machine.put("it", config)
    assert machine.installed.read()["it"].spec.context_tokens == tokens


@pytest.mark.parametrize(
    ("max_length", "trained", "tokens"), [(1024, 2048, 1024), (32768, 2048, 2048), (8192, 131072, 8192), (8192, None, 8192)]
)
def test_max_length_wins_over_the_profile_but_not_over_what_the_model_was_made_for(
    tmp_path: Path, max_length: int, trained: int | None, tokens: int
) -> None:
    machine = Machine(tmp_path, max_length=max_length)
    machine.put("it", CONFIG | {"max_position_embeddings": trained})
    assert machine.installed.read()["it"].spec.context_tokens == tokens


def test_need_counts_the_cache_of_the_profile_and_weights_in_the_engines_numbers(tmp_path: Path) -> None:
    half = Machine(tmp_path / "half").installed.read()["smollm2-135m-instruct"].spec.requirement
    full = Machine(tmp_path / "full", dtype="float32").installed.read()["smollm2-135m-instruct"].spec.requirement
    assert half.kv_cache_bytes == 1 * GIB
    assert (half.weights_bytes, full.weights_bytes) == (WEIGHTS_BYTES, 2 * WEIGHTS_BYTES)


def test_quantisation_is_the_one_in_the_models_own_settings(machine: Machine) -> None:
    machine.put("small", CONFIG | {"quantization_config": {"quant_method": "awq", "bits": 4}})
    models = machine.installed.read()
    assert models["small"].spec.quantization == "awq"
    assert models["smollm2-135m-instruct"].spec.quantization is None


def test_models_run_on_the_card_where_the_profile_has_one(tmp_path: Path) -> None:
    assert Machine(tmp_path, profile="rtx4060ti").installed.read()["smollm2-135m-instruct"].spec.device == "cuda:0"


def test_speech_model_is_no_chat_model(machine: Machine) -> None:
    speech = parse_key("vosk:vi")
    write_model(machine.installs.staging(speech))
    machine.installs.publish(speech, machine.installs.staging(speech), digest="c" * 40, source="test")
    assert machine.ids() == ["smollm2-135m-instruct"]


def test_default_model_takes_what_context_and_sequences_need_and_leaves_the_rest_of_the_card(tmp_path: Path) -> None:
    machine = Machine(tmp_path, profile="rtx4060ti")
    machine.put("another")
    models = machine.installed.read()
    profile = load_profile("rtx4060ti")
    assert profile.llm.gpu_memory_utilization is not None
    share_bytes = profile.llm.gpu_memory_utilization * profile.gpu_memory_gb * GIB
    default, another = models["smollm2-135m-instruct"].spec.requirement, models["another"].spec.requirement
    assert default.kv_cache_bytes == another.kv_cache_bytes
    assert default.total_bytes + another.total_bytes < share_bytes / 4


def test_second_folder_of_a_name_is_left_out_and_that_is_said_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.put("Shop-Bot")
    machine.put("shop-bot")
    with caplog.at_level(logging.WARNING):
        assert machine.ids() == machine.ids() == ["smollm2-135m-instruct", "shop-bot"]
    assert caplog.text.count("belongs to") == 1
