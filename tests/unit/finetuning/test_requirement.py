"""What a training is said to take, beside what one takes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from aihub.core.errors import ConfigurationError
from aihub.finetuning.requirement import ADAPTER_BYTES, RUNTIME_BYTES, estimate_training_bytes
from aihub.finetuning.settings import FineTuningSettings
from tests.unit.training.tiny_model import write_tiny_model

VOCABULARY, HIDDEN, INNER, LAYERS = 1000, 64, 128, 2
LAYER_SHAPES = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64), "mlp.up_proj": (128, 64), "mlp.down_proj": (64, 128)}
SETTINGS = FineTuningSettings(batch_size=8, max_tokens=512, rank=8)
ROOT = Path(__file__).resolve().parents[3]

MEASURE = """
import sys
from pathlib import Path
from aihub.core.hardware import read_peak_memory_bytes
from aihub.finetuning.settings import FineTuningSettings
from tests.unit.training.tiny_model import ask
from training.lora import train
base, folder = Path(sys.argv[1]), Path(sys.argv[2])
examples = [ask("?", "một hai ba bốn " * 20, line=line) for line in range(1, 33)]
train(base, examples, FineTuningSettings.model_validate_json(sys.argv[3]), work=folder / "work", output=folder / "adapter")
print(read_peak_memory_bytes())
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_base(tmp_path)


def write_base(folder: Path, **changes: Any) -> Path:
    """A folder with the heads of a model; its weights are zeros."""
    config = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    (folder / "config.json").write_text(json.dumps(config | changes), encoding="utf-8")
    shapes = {f"model.layers.{n}.{name}.weight": shape for n in range(LAYERS) for name, shape in LAYER_SHAPES.items()}
    shapes |= {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "model.norm.weight": (HIDDEN,)}
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


def estimate(base: Path, *, dtype: str = "bfloat16", workers: int = 1, longest_tokens: int | None = None, **changes: Any) -> int:
    settings = SETTINGS.model_copy(update=changes)
    return estimate_training_bytes(base, settings, device="cpu", dtype=dtype, workers=workers, longest_tokens=longest_tokens)


def test_estimate_is_no_less_than_a_training_takes_and_not_twice_that(tmp_path: Path) -> None:
    """So wide a model that its tokens weigh as much as Python and torch do."""
    folder = write_tiny_model(tmp_path / "wide", vocab_size=16_384, hidden_size=256, intermediate_size=1024, num_hidden_layers=8)
    settings = FineTuningSettings(epochs=1, batch_size=16, rank=4, max_tokens=128, precision="float32")
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path), settings.model_dump_json()]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True, timeout=300)
    peak_bytes = int(done.stdout.splitlines()[-1])
    estimated_bytes = estimate_training_bytes(folder, settings, device="cpu", dtype="float32")
    assert peak_bytes > 1.2e9  # imports alone take 0.7e9
    assert 1.0 <= estimated_bytes / peak_bytes <= 1.7


def test_tokens_cost_in_proportion_to_batch_and_to_the_longest_row(base: Path) -> None:
    tokens_bytes = estimate(base) - estimate(base, batch_size=4)
    assert tokens_bytes == pytest.approx(estimate(base, batch_size=12) - estimate(base), rel=1e-6)
    assert estimate(base, longest_tokens=100) == estimate(base, max_tokens=100) < estimate(base)
    assert estimate(base, longest_tokens=5000) == estimate(base)


def test_rows_are_counted_where_they_lie(base: Path) -> None:
    settings = FineTuningSettings()
    by_device = {
        device: estimate_training_bytes(base, settings, device=device, dtype="bfloat16", workers=2, dataset_tokens=10**6)
        - estimate_training_bytes(base, settings, device=device, dtype="bfloat16", workers=2)
        for device in ("cpu", "cuda:0")
    }
    assert by_device == {"cpu": 2 * 50 * 10**6, "cuda:0": 0}


def test_checkpointing_and_qlora_take_less_and_float32_more(base: Path) -> None:
    assert estimate(base, gradient_checkpointing=True) < estimate(base)
    assert estimate(base, dtype="float32") > estimate(base)
    assert estimate(base, precision="float32") == estimate(base, dtype="float32")
    (base / "wide").mkdir()
    wide = write_base(base / "wide")
    large = {f"model.layers.{n}.mlp.up_proj.weight": np.zeros((2048, 1024), np.float16) for n in range(8)}
    save_file(large, wide / "more.safetensors")
    assert estimate(wide, method="qlora") < estimate(wide)


def test_adapter_is_counted_for_the_layers_it_is_put_on(base: Path) -> None:
    one_layer = sum(sum(shape) for shape in LAYER_SHAPES.values())
    both = estimate(base, rank=16) - estimate(base, rank=8)
    assert both == 8 * LAYERS * one_layer * ADAPTER_BYTES
    query = estimate(base, rank=16, target_modules=("q_proj",)) - estimate(base, rank=8, target_modules=("q_proj",))
    assert query == 8 * LAYERS * (64 + 64) * ADAPTER_BYTES


def test_each_worker_holds_the_model_and_its_part_of_the_step(base: Path) -> None:
    assert estimate(base, workers=2) > estimate(base) + RUNTIME_BYTES
    # With accumulation each of them still computes whole batches.
    assert estimate(base, workers=2, gradient_accumulation=2) > 2 * estimate(base)


def test_model_with_vision_is_read_by_its_text_part(tmp_path: Path) -> None:
    text = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": LAYERS, "vocab_size": VOCABULARY}
    (tmp_path / "text").mkdir()
    assert estimate(write_base(tmp_path, text_config=text, hidden_size=1)) == estimate(write_base(tmp_path / "text"))


@pytest.mark.parametrize(
    "changes", [{"hidden_size": None}, {"hidden_size": "64"}, {"vocab_size": 0}, {"num_hidden_layers": True}, {"text_config": 1}]
)
def test_config_without_sensible_dimensions_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match="does not describe a language model"):
        estimate(write_base(tmp_path, **changes))


def test_unknown_type_and_no_worker_are_refused(base: Path) -> None:
    with pytest.raises(ValueError, match="int8"):
        estimate(base, dtype="int8")
    with pytest.raises(ValueError, match="one worker"):
        estimate(base, workers=0)


def test_estimate_imports_no_torch(base: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from aihub.finetuning.requirement import estimate_training_bytes as e; "
        "from aihub.finetuning.settings import FineTuningSettings as S; "
        f"e(Path({str(base)!r}), S(), device='cpu', dtype='float32'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
