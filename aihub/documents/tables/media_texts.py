"""The text of a recording or an image as a store has it already."""

from typing import get_args

from aihub.core.postgres import Connection
from aihub.documents.service import MediaText
from aihub.documents.tables.links import read_text
from aihub.documents.time_spans import merge_spans
from aihub.media.service import MediaKind


async def read_media_text(connection: Connection, tenant_id: str, file_id: str) -> MediaText | None:
    """Return the text of a file that some store has indexed by transcript or caption; inside a snapshot or a lock of the file."""
    cursor = await connection.execute(
        """
        SELECT link.seq, part.format FROM vector_store_files AS link
        JOIN file_texts AS part ON part.tenant_id = link.tenant_id AND part.file_id = link.file_id AND part.part = 0
        WHERE link.tenant_id = %s AND link.file_id = %s AND link.status = 'completed' AND part.format = ANY(%s)
        LIMIT 1
        """,
        (tenant_id, file_id, list(get_args(MediaKind))),
    )
    found = await cursor.fetchone()
    if found is None:
        return None
    link_seq, kind = found
    chunks = await connection.execute("SELECT time_spans FROM chunks WHERE store_file_seq = %s ORDER BY ordinal", (link_seq,))
    spans = merge_spans([row[0] for row in await chunks.fetchall()])
    return MediaText(await read_text(connection, tenant_id, file_id, 0, None), kind, spans)
