"""One partial HNSW index per number of dimensions, over one column of vectors of any length.

Source of the pattern: pgvector README, "Can I store vectors with different dimensions in the same column?".
"""

from psycopg import sql

from aihub.core.errors import ConfigurationError
from aihub.core.postgres import Connection, Database

MAX_DIMENSIONS = 4000
"""pgvector's limit for an HNSW index on `halfvec`."""

_BUILD_TIMEOUT_S = 600.0
_LOCK_KEY = 0x61696875625F6978


def index_name(dimensions: int) -> str:
    """Return the name of the index for vectors of this length."""
    return f"chunk_vectors_hnsw_{dimensions}"


async def ensure_vector_index(db: Database, dimensions: int) -> None:
    """Create the index for vectors of this length unless it exists; writers of vectors wait meanwhile.

    Raises:
        ConfigurationError: More dimensions than pgvector can index.
    """
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise ConfigurationError(
            f"The embedding model has {dimensions} dimensions, vector search works with 1 to {MAX_DIMENSIONS}. "
            "Choose another AIHUB_EMBEDDING_MODEL."
        )
    async with db.connection() as connection:
        if await _exists(connection, dimensions):
            return
    async with db.transaction(timeout_s=_BUILD_TIMEOUT_S) as connection:
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
        await connection.execute(
            sql.SQL(
                "CREATE INDEX IF NOT EXISTS {name} ON chunk_vectors USING hnsw "
                "((embedding::halfvec({dimensions})) halfvec_cosine_ops) WHERE dimensions = {dimensions}"
            ).format(name=sql.Identifier(index_name(dimensions)), dimensions=sql.Literal(dimensions))
        )


async def _exists(connection: Connection, dimensions: int) -> bool:
    cursor = await connection.execute("SELECT to_regclass(%s) IS NOT NULL", (index_name(dimensions),))
    row = await cursor.fetchone()
    return bool(row and row[0])
