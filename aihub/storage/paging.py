"""OpenAI's cursor pages over a table's `seq` column."""

from typing import Any, Literal, LiteralString, TypeVar

from psycopg.rows import AsyncRowFactory

from aihub.errors import InvalidRequestError
from aihub.storage.postgres import Connection

Row = TypeVar("Row")
Order = Literal["asc", "desc"]


async def read_page(
    connection: Connection,
    row_factory: AsyncRowFactory[Row],
    select: LiteralString,
    anchor_query: LiteralString,
    params: dict[str, Any],
    *,
    limit: int,
    after: str | None,
    before: str | None,
    order: Order,
) -> tuple[list[Row], bool]:
    """Return one page and whether more rows follow in the direction of reading.

    Args:
        connection: Inside a transaction or not.
        row_factory: Makes the rows.
        select: A SELECT that calls the paged table `item` and ends in its WHERE clause.
        anchor_query: A SELECT of `seq` for the id in `%(anchor)s`.
        params: For both statements.
        limit: Most rows returned.
        after: The page starts behind this id.
        before: The page ends in front of this id; not together with `after`.
        order: Of the page, by creation.

    Raises:
        InvalidRequestError: `after` or `before` names nothing, or both are given.
    """
    if after is not None and before is not None:
        raise InvalidRequestError("Give either 'after' or 'before', not both.", param="before")
    is_descending = (order == "desc") != (before is not None)
    position = 2**63 - 1 if is_descending else 0
    anchor = after if after is not None else before
    if anchor is not None:
        found = await (await connection.execute(anchor_query, params | {"anchor": anchor})).fetchone()
        if found is None:
            name = "after" if after is not None else "before"
            raise InvalidRequestError(f"{name!r} names no object of this list: {anchor!r}.", param=name)
        position = found[0]
    down: LiteralString = " AND item.seq < %(position)s ORDER BY item.seq DESC LIMIT %(fetch)s"
    up: LiteralString = " AND item.seq > %(position)s ORDER BY item.seq ASC LIMIT %(fetch)s"
    async with connection.cursor(row_factory=row_factory) as cursor:
        await cursor.execute(select + (down if is_descending else up), params | {"position": position, "fetch": limit + 1})
        rows = await cursor.fetchall()
    page = rows[:limit]
    return (page[::-1] if before is not None else page), len(rows) > limit
