"""DOCX to text, read as a stream.

Not python-docx: it loads every part (images too) into memory, and its paragraphs leave out the text of content controls,
tracked insertions, text boxes and footnotes.
"""

import io
import posixpath
import zipfile
from typing import Any

from lxml import etree

from aihub.documents.parsing.clean import BoundedText, DocumentError
from aihub.documents.parsing.formats.docx_view import AcceptedView, hidden_styles, is_deleted_mark

_MAX_MEMBERS = 10_000
_MAX_BYTES = 512 * 2**20
_MAX_PART_BYTES = 128 * 2**20
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 2**20
_RELATIONSHIPS = "_rels/.rels"
_MAIN_PART = "/officeDocument"
_STYLES = "styles.xml"
_NOTES = ("footnotes.xml", "endnotes.xml")


def is_docx(data: bytes) -> bool:
    """Whether ZIP bytes hold a Word document.

    Raises:
        DocumentError: `invalid_file` when the ZIP is damaged.
    """
    return any(name.startswith("word/") for name in _open(data).namelist())


def read_docx(data: bytes, max_characters: int) -> str:
    """Return the text of the body, then of its notes: tracked changes accepted, hidden text left out.

    Paragraphs are parted by blank lines, rows by newlines, cells by tabs.

    Raises:
        DocumentError: `invalid_file`, `encrypted_file`, or `too_large` for an archive that unfolds out of proportion.
    """
    archive = _open(data)
    _check_sizes(archive)
    main = _main_part(archive)
    out = BoundedText(max_characters)
    styles = _hidden_styles(archive, main)
    view = AcceptedView(styles)
    _read_part(archive, main, out, view)
    for name in _NOTES:
        part = posixpath.join(posixpath.dirname(main), name)
        if part in archive.namelist():
            out.add("\n\n")
            _read_part(archive, part, out, AcceptedView(styles, view.unreferenced_notes()))
    return out.text()


def _open(data: bytes) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(io.BytesIO(data))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise DocumentError(f"The DOCX file is damaged: {error}.") from error


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Trust no archive that unfolds far beyond its own size. `zipfile` never gives more than the declared size."""
    members = archive.infolist()
    unfolded = sum(member.file_size for member in members)
    folded = sum(member.compress_size for member in members)
    is_bomb = unfolded > _RATIO_FROM_BYTES and unfolded > _MAX_RATIO * max(1, folded)
    if is_bomb or unfolded > _MAX_BYTES or len(members) > _MAX_MEMBERS:
        raise DocumentError("The DOCX archive unfolds to far more than a document should hold; it is not read.", code="too_large")
    if any(member.flag_bits & 1 for member in members):
        raise DocumentError("The DOCX file is protected by a password; upload it without one.", code="encrypted_file")


def _main_part(archive: zipfile.ZipFile) -> str:
    if _RELATIONSHIPS in archive.namelist():
        for _, element in _elements(archive, _RELATIONSHIPS):
            if element.get("Type", "").endswith(_MAIN_PART):
                return posixpath.normpath(str(element.get("Target", "")).lstrip("/"))
    raise DocumentError("The DOCX file names no main document; save it again.")


def _hidden_styles(archive: zipfile.ZipFile, main: str) -> frozenset[str]:
    part = posixpath.join(posixpath.dirname(main), _STYLES)
    if part not in archive.namelist():
        return frozenset()
    # Only these: the rest of the part need not be kept in memory.
    styles = (e for event, e in _elements(archive, part) if event == "end" and etree.QName(e).localname == "style")
    return hidden_styles(styles)


def _read_part(archive: zipfile.ZipFile, name: str, out: BoundedText, view: AcceptedView) -> None:
    cells = 0
    for event, element in _elements(archive, name):
        tag = etree.QName(element).localname
        if tag == "tc":
            cells += 1 if event == "start" else -1
        if event == "start":
            view.start(tag, element)
            continue
        if (view.is_kept and not is_deleted_mark(element)) if tag == "p" else view.is_shown:
            out.add(_text_of(tag, element, cells > 0))
        view.end(tag, element)
        if tag in {"p", "tbl"}:
            element.clear(keep_tail=True)
            while element.getprevious() is not None:  # else a long document stays in memory as empty elements
                del element.getparent()[0]


def _text_of(tag: str, element: Any, is_in_cell: bool) -> str:
    match tag:
        case "t":
            return str(element.text or "")
        case "tab" | "ptab":
            # Also the name of a tab stop in paragraph properties, which is no text.
            return "\t" if etree.QName(element.getparent()).localname == "r" else ""
        case "br" | "cr":
            return "\n"
        case "noBreakHyphen":
            return "-"
        case "p":
            return " " if is_in_cell else "\n\n"
        case "tc":
            return "\t"
        case "tr":
            return "\n"
        case "tbl":
            return "\n"
        case _:
            return ""


def _elements(archive: zipfile.ZipFile, name: str) -> Any:
    """Yield lxml's (event, element) of one part; entities and DTDs are refused, nothing is fetched."""
    try:
        if archive.getinfo(name).file_size > _MAX_PART_BYTES:
            raise DocumentError("The text of the DOCX file is too large; split it.", code="too_large")
        with archive.open(name) as part:
            is_first = True
            for event, element in etree.iterparse(
                part, events=("start", "end"), resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False,
                remove_comments=True, remove_pis=True,
            ):  # fmt: skip
                if is_first and element.getroottree().docinfo.internalDTD is not None:
                    raise DocumentError("The DOCX file declares XML entities, which Word never writes; it is not read.")
                is_first = False
                yield event, element
    except (KeyError, zipfile.BadZipFile, etree.XMLSyntaxError, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        raise DocumentError(f"The DOCX file is damaged: {error}.") from error
