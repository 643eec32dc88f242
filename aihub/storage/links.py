"""Row locks and bookkeeping shared by everything that links files to vector stores.

Locks are always taken in this order: file, store, link, and the store's counters last. So no two transactions wait for each
other, and versions grow in commit order.
"""

import secrets

from aihub.storage.postgres import Connection


def new_id(prefix: str) -> str:
    """Return a fresh object id such as `file-5f0c...`: 96 random bits."""
    return prefix + secrets.token_hex(12)


async def lock_file(connection: Connection, tenant_id: str, file_id: str) -> bool:
    """Keep a file from being deleted and from being processed twice at once; False when there is none."""
    cursor = await connection.execute(
        "SELECT FROM files WHERE tenant_id = %s AND id = %s AND (expires_at IS NULL OR expires_at > now()) FOR NO KEY UPDATE",
        (tenant_id, file_id),
    )
    return await cursor.fetchone() is not None


async def lock_store(connection: Connection, tenant_id: str, store_id: str) -> bool:
    """Keep a store from being deleted; False when there is none."""
    cursor = await connection.execute(
        "SELECT FROM vector_stores WHERE tenant_id = %s AND id = %s FOR KEY SHARE", (tenant_id, store_id)
    )
    return await cursor.fetchone() is not None


async def count_document(connection: Connection, tenant_id: str, store_id: str, *, chunks: int, size_bytes: int) -> int:
    """Add a document to a store's counters and return the new version; the row stays locked until the commit."""
    cursor = await connection.execute(
        """
        UPDATE vector_stores SET version = version + 1, chunk_count = chunk_count + %(chunks)s,
            usage_bytes = usage_bytes + %(bytes)s, last_active_at = now()
        WHERE tenant_id = %(tenant)s AND id = %(store)s RETURNING version
        """,
        {"tenant": tenant_id, "store": store_id, "chunks": chunks, "bytes": size_bytes},
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def remove_link(connection: Connection, tenant_id: str, store_id: str, file_id: str) -> bool:
    """Take a file with its chunks out of a store and note the removal; False when it was not attached.

    The caller has locked the store.
    """
    cursor = await connection.execute(
        """
        DELETE FROM vector_store_files WHERE tenant_id = %s AND store_id = %s AND file_id = %s
        RETURNING chunk_count, usage_bytes
        """,
        (tenant_id, store_id, file_id),
    )
    removed = await cursor.fetchone()
    if removed is None:
        return False
    version = await count_document(connection, tenant_id, store_id, chunks=-removed[0], size_bytes=-removed[1])
    await connection.execute(
        """
        INSERT INTO vector_store_removals (tenant_id, store_id, file_id, version) VALUES (%s, %s, %s, %s)
        ON CONFLICT (tenant_id, store_id, file_id) DO UPDATE SET version = excluded.version
        """,
        (tenant_id, store_id, file_id, version),
    )
    return True
