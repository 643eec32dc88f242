import pytest
from pydantic import BaseModel, Field, PositiveInt, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.errors import ConfigurationError
from aihub.recsys.settings import RecsysSettings
from aihub.typed_environment import EnvironmentSettings


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


def test_settings_of_recommendations_are_told_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_MAX_EVENTS", "0")
    monkeypatch.setenv("RECSYS_TRENDING__TREES", "none")
    with pytest.raises(ConfigurationError) as raised:
        RecsysSettings()
    assert "RECSYS_MAX_EVENTS" in raised.value.message
    assert "RECSYS_TRENDING__TREES" in raised.value.message
