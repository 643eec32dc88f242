"""The shop's database as the recommendation service before the hub was told of it: `DB_HOST`, `DB_PORT`, `DB_NAME` and so on."""

from typing import Annotated
from urllib.parse import quote

from pydantic import Field, SecretStr
from pydantic_settings import SettingsConfigDict

from aihub.errors import ConfigurationError
from aihub.typed_environment import EnvironmentSettings

Port = Annotated[int, Field(ge=1, le=65535)]


class ShopDatabase(EnvironmentSettings):
    """Five variables that make one address.

    Attributes:
        host: `localhost` when unset; a path is the folder of a Unix socket.

    Raises:
        ConfigurationError: A variable has a wrong value.
    """

    model_config = SettingsConfigDict(env_prefix="DB_", extra="ignore", frozen=True, env_ignore_empty=True)

    host: str | None = None
    port: Port = 5432
    name: str | None = None
    user: str | None = None
    password: SecretStr | None = None

    def url(self) -> SecretStr | None:
        """Return the address as a PostgreSQL URL; None where neither `DB_HOST` nor `DB_NAME` is set.

        Raises:
            ConfigurationError: `DB_HOST` is set and `DB_NAME` is not.
        """
        if self.name is None:
            if self.host is None:
                return None
            raise ConfigurationError(
                "DB_HOST is set, but DB_NAME is not: name the shop's database, set RECSYS_DATABASE_URL, or unset DB_HOST."
            )
        host = self.host or "localhost"
        place = f"[{host}]" if ":" in host else quote(host, safe="")
        secret = f":{quote(self.password.get_secret_value(), safe='')}" if self.password is not None else ""
        user = f"{quote(self.user, safe='')}{secret}@" if self.user is not None else ""
        return SecretStr(f"postgresql://{user}{place}:{self.port}/{quote(self.name, safe='')}")
