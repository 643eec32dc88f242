"""Keeps pages of other sites from sending what needs no body, which browsers allow them to do without asking first."""

from urllib.parse import urlsplit

from fastapi import Request

from aihub.errors import InvalidRequestError

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class ForeignPageError(InvalidRequestError):
    """A page of another site sent the request through somebody's browser."""

    status = 403
    code = "foreign_page"


async def refuse_foreign_pages(request: Request) -> None:
    """Refuse a request that changes something and that the browser says comes from a page of another site.

    Raises:
        ForeignPageError: It does. Clients that are no browsers send neither header and pass.
    """
    if request.method in _READING:
        return
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    # Browsers leave Sec-Fetch-Site out over plain http to other machines, and send Origin there.
    is_foreign = (
        site not in {"same-origin", "none"} if site is not None
        else origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    )  # fmt: skip
    if is_foreign:
        raise ForeignPageError("A page of another site may not change models here. Use the hub's own address, or no browser.")
