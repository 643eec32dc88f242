"""What tests of the embedded servers look at: their processes, and whether they answer."""

from pathlib import Path

import psutil
import psycopg
import redis

from aihub.core.embedded.stores import StoreUrls
from tests.external_servers import is_alive


def servers_of(home: Path) -> list[int]:
    """Process ids of PostgreSQL and Redis servers that work in `home`, and of their supervisors."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd"]):
        cwd, words = process.info["cwd"] or "", process.info["cmdline"] or []
        is_server = cwd.startswith(str(home))
        is_supervisor = "aihub.core.embedded.supervisor" in words and str(home) in words
        if (is_server or is_supervisor) and is_alive(process.info["pid"]):
            found.append(process.info["pid"])
    return found


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "data" / "postmaster.pid").read_text(encoding="utf-8").split()[0])


def write_and_read(urls: StoreUrls) -> None:
    with psycopg.connect(urls.database_url) as connection:
        assert connection.execute("SELECT '[1,2]'::halfvec <=> '[1,2]'::halfvec").fetchone() == (0.0,)
    client = redis.Redis.from_url(urls.redis_url)
    assert client.set("a", b"1", ex=5)
    assert client.get("a") == b"1"
    client.close()


def answers(urls: StoreUrls) -> bool:
    try:
        write_and_read(urls)
    except (psycopg.OperationalError, redis.RedisError):
        return False
    return True
