import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from aihub.core.embedded.stores import StoreUrls
from aihub.core.errors import ConfigurationError
from aihub.recsys.settings import RecsysSettings, ShopDatabase

NAMES = ("DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD", "RECSYS_DATABASE_URL")


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def address(**variables: str) -> dict[str, object] | None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        url = RecsysSettings().database_url
    return None if url is None else dict(conninfo_to_dict(url.get_secret_value()))


def test_variables_of_the_earlier_service_name_the_shops_database() -> None:
    parts = {"DB_HOST": "db.shop.vn", "DB_PORT": "6432", "DB_NAME": "cửa hàng", "DB_USER": "ai@shop", "DB_PASSWORD": "p@s:/?#%"}
    assert address(**parts) == {
        "host": "db.shop.vn",
        "port": "6432",
        "dbname": "cửa hàng",
        "user": "ai@shop",
        "password": "p@s:/?#%",
    }


def test_what_is_left_out_is_postgresqls_default() -> None:
    assert address(DB_NAME="shop") == {"host": "localhost", "port": "5432", "dbname": "shop"}
    assert address(DB_NAME="shop", DB_HOST="/var/run/postgresql") == {
        "host": "/var/run/postgresql",
        "port": "5432",
        "dbname": "shop",
    }
    assert address(DB_NAME="shop", DB_HOST="::1") == {"host": "::1", "port": "5432", "dbname": "shop"}


def test_without_a_host_and_a_name_there_is_no_shop_elsewhere() -> None:
    assert address() is None
    assert address(DB_USER="root", DB_PASSWORD="x", DB_PORT="5432", DB_HOST="", DB_NAME="") is None


def test_own_address_wins_whatever_the_earlier_variables_say() -> None:
    found = address(RECSYS_DATABASE_URL="postgresql://own/shop", DB_HOST="other", DB_NAME="other", DB_PORT="wrong")
    assert found == {"host": "own", "dbname": "shop"}


def test_host_without_a_name_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="DB_NAME is not"):
        address(DB_HOST="db.shop.vn")


@pytest.mark.parametrize("port", ["0", "65536", "many"])
def test_wrong_port_is_named_with_its_value(port: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DB_PORT: .*'{port}'"):
        address(DB_NAME="shop", DB_PORT=port)


def test_password_is_in_no_message_and_no_repr(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_NAME", "shop")
    monkeypatch.setenv("DB_USER", "ai")
    monkeypatch.setenv("DB_PASSWORD", "s3cret")
    assert "s3cret" not in repr(RecsysSettings()) + repr(ShopDatabase())


def test_batch_size_and_epochs_of_the_earlier_service_are_those_of_the_recommender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOMMENDATION_BATCH_SIZE", "32")
    monkeypatch.setenv("RECOMMENDATION_EPOCHS", "50")
    monkeypatch.setenv("RECSYS_RECOMMENDATION__DIM", "64")
    found = RecsysSettings().recommendation
    assert (found.batch_size, found.epochs, found.dim) == (32, 50, 64)
    monkeypatch.setenv("RECSYS_RECOMMENDATION__EPOCHS", "20")
    assert RecsysSettings().recommendation.epochs == 20


def test_wrong_epochs_are_told_by_the_name_that_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECOMMENDATION_EPOCHS", "0")
    with pytest.raises(ConfigurationError, match=r"RECOMMENDATION_EPOCHS: .*\(it is '0'\)"):
        RecsysSettings()


def test_composed_address_opens_a_database(monkeypatch: pytest.MonkeyPatch, embedded_stores: StoreUrls) -> None:
    parts = conninfo_to_dict(embedded_stores.database_url)
    for variable, name in {"DB_HOST": "host", "DB_PORT": "port", "DB_NAME": "dbname", "DB_USER": "user"}.items():
        if value := parts.get(name):
            monkeypatch.setenv(variable, str(value))
    if password := parts.get("password"):
        monkeypatch.setenv("DB_PASSWORD", str(password))
    url = RecsysSettings().database_url
    assert url is not None
    with psycopg.connect(url.get_secret_value()) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
