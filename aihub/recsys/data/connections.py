"""Connections to a shop's database: read-only, limited in time, with errors in the shop's words."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from aihub.core.errors import ConfigurationError, ConflictError, StorageUnavailableError
from aihub.core.postgres_connection import CONNECT_TIMEOUT_S, KEEPALIVES, limited

logger = logging.getLogger(__name__)


class MappingMismatchError(ConflictError):
    """The mapping names tables or columns that the database does not have."""

    code = "mapping_mismatch"


class NotEnoughDataError(ConflictError):
    """The store has too few events to learn from."""

    code = "not_enough_data"


class TooMuchDataError(ConflictError):
    """The store has more events than the limit allows."""

    code = "too_much_data"


class ShopUnavailableError(StorageUnavailableError):
    """The shop's database does not answer, or not in time."""

    code = "shop_unavailable"


def shop_conninfo(dsn: str, *, statement_timeout_s: float, plans_once: bool = False) -> str:
    """Return connection parameters with which nothing can be written and no statement lasts longer.

    Args:
        dsn: libpq URL.
        statement_timeout_s: Longest statement, and longest wait for a lock.
        plans_once: A prepared statement keeps its first plan; else small ones may be planned each time, which takes longer.

    Raises:
        ConfigurationError: The URL is none.
    """
    milliseconds = max(1, round(statement_timeout_s * 1000))
    options = f"-c default_transaction_read_only=on -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
    options += " -c plan_cache_mode=force_generic_plan" if plans_once else ""
    try:
        return make_conninfo(
            dsn,
            connect_timeout=CONNECT_TIMEOUT_S,
            application_name="aihub-recsys",
            client_encoding="utf8",
            options=options,
            **KEEPALIVES,
        )
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(
            "RECSYS_DATABASE_URL is no PostgreSQL URL; write postgresql://user:password@host/name."
        ) from error


@contextmanager
def connect_shop(dsn: str, *, statement_timeout_s: float) -> Iterator[psycopg.Connection[Any]]:
    """Yield one connection for one reading of a store. Blocking.

    It is cut after twice the time: the last statement may begin just before a reading has to end.
    """
    connection = psycopg.connect(shop_conninfo(dsn, statement_timeout_s=statement_timeout_s))
    with connection, limited(connection, 2 * statement_timeout_s):
        yield connection


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn errors of the shop's database into the hub's.

    Raises:
        ShopUnavailableError: It does not answer, or not in time.
        MappingMismatchError: A statement is refused, as the tables are not what the mapping says.
    """
    try:
        yield
    except psycopg.errors.QueryCanceled as error:
        raise ShopUnavailableError("The shop's database took too long. Add indexes to its tables, or allow more time.") from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        logger.warning("Shop database: %s: %s", type(error).__name__, error)
        raise ShopUnavailableError("The shop's database does not answer. Check RECSYS_DATABASE_URL, or try again.") from error
    except psycopg.Error as error:
        logger.warning("The shop's database refused a statement: %s", error)
        reason = error.diag.message_primary or str(error)
        raise MappingMismatchError(
            f"The shop's database refused to be read: {reason}. Check configs/recsys/mapping.yaml."
        ) from error
