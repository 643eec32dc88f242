import pytest
from pydantic import BaseModel, Field, PositiveInt, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.core.errors import ConfigurationError
from aihub.core.typed_configuration import EnvironmentSettings
from aihub.recsys.settings import RecsysSettings


class Part(BaseModel):
    size: PositiveInt = 1


class Example(EnvironmentSettings):
    model_config = SettingsConfigDict(env_prefix="EXAMPLE_", env_nested_delimiter="__", extra="ignore")

    size: PositiveInt = 1
    named: PositiveInt = Field(default=1, validation_alias="OTHER_NAME")
    key: SecretStr | None = Field(default=None, min_length=4)
    part: Part = Part()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("EXAMPLE_SIZE", "0"), ("OTHER_NAME", "many"), ("EXAMPLE_PART__SIZE", "-1"), ("EXAMPLE_PART__SIZE", "x")],
)
def test_wrong_value_is_told_with_the_variables_name(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=rf"wrong: {variable}: .*\(it is '{value}'\)"):
        Example()


def test_wrong_secret_is_named_but_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXAMPLE_KEY", "abc")
    with pytest.raises(ConfigurationError, match="EXAMPLE_KEY") as raised:
        Example()
    assert "abc" not in raised.value.message


class Renamed(EnvironmentSettings):
    earlier_variables = {"OLD_SIZE": "size", "OLD_PART_SIZE": "part.size"}
    model_config = SettingsConfigDict(env_prefix="RENAMED_", env_nested_delimiter="__", extra="ignore", env_ignore_empty=True)

    size: PositiveInt = 1
    part: Part = Part()


def test_earlier_variable_counts_where_the_own_one_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_SIZE", "5")
    monkeypatch.setenv("OLD_PART_SIZE", " 6 ")
    assert (Renamed().size, Renamed().part.size) == (5, 6)
    monkeypatch.setenv("RENAMED_SIZE", "")
    assert Renamed().size == 5
    monkeypatch.setenv("RENAMED_SIZE", "7")
    monkeypatch.setenv("RENAMED_PART__SIZE", "8")
    assert (Renamed().size, Renamed().part.size) == (7, 8)
    assert Renamed(size=9).size == 9


def test_wrong_value_of_an_earlier_variable_is_told_with_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_SIZE", "-1")
    monkeypatch.setenv("OLD_PART_SIZE", "many")
    with pytest.raises(ConfigurationError) as raised:
        Renamed()
    assert "OLD_SIZE: " in raised.value.message
    assert "OLD_PART_SIZE: " in raised.value.message
    assert "\n" not in raised.value.message
    monkeypatch.setenv("RENAMED_SIZE", "0")
    monkeypatch.setenv("OLD_PART_SIZE", "1")
    with pytest.raises(ConfigurationError, match="RENAMED_SIZE: "):
        Renamed()


def test_settings_of_recommendations_are_told_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_MAX_EVENTS", "0")
    monkeypatch.setenv("RECSYS_TRENDING__TREES", "none")
    with pytest.raises(ConfigurationError) as raised:
        RecsysSettings()
    assert "RECSYS_MAX_EVENTS" in raised.value.message
    assert "RECSYS_TRENDING__TREES" in raised.value.message
