from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from aihub.core.errors import ConfigurationError
from aihub.core.typed_configuration import load_typed_yaml


class Shop(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    tables: int


def test_file_becomes_the_model(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("name: Phở Hà Nội\ntables: 3\n", encoding="utf-8")
    assert load_typed_yaml(tmp_path / "shop.yaml", Shop) == Shop(name="Phở Hà Nội", tables=3)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: [", "Shop file shop.yaml is not YAML"),
        ("name: a\ntabels: 3\n", "tabels"),
        ("name: a\ntables: many\n", "tables"),
        ("", "is wrong"),
    ],
)
def test_mistake_is_an_error_that_names_file_and_place(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "shop.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=told) as caught:
        load_typed_yaml(tmp_path / "shop.yaml", Shop, what="Shop file")
    assert "shop.yaml" in caught.value.message
