"""What of a Word document counts as its text: tracked changes accepted, hidden text left out."""

from collections.abc import Set
from typing import Any

from lxml import etree

# Where text came from, the older copy of a text box, and the reading aid above Japanese words.
_LEFT_OUT = frozenset({"del", "moveFrom", "Fallback", "rt"})
_DELETED_MARKS = frozenset({"del", "moveFrom"})
_OFF = frozenset({"0", "false", "off", "none"})
_NOTES = frozenset({"footnote", "endnote"})


class AcceptedView:
    """Follows the start and end of elements and says whether text at this place is shown.

    Args:
        hidden_styles: Ids of paragraph and character styles with hidden text.
        hidden_notes: `(footnote or endnote, id)` of the notes that are left out.
    """

    def __init__(self, hidden_styles: Set[str], hidden_notes: Set[tuple[str, str]] = frozenset()) -> None:
        self._hidden_styles = hidden_styles
        self._hidden_notes = hidden_notes
        self._references: dict[tuple[str, str], bool] = {}  # of each note, whether it is referred to in shown text
        self._left_out = 0
        self._holders: list[list[Any]] = []  # [tag, is hidden or None] of open rows, cells, paragraphs, runs, controls, notes
        self._fields: list[bool] = []  # of each open field, whether its code (not yet its result) is read

    @property
    def is_kept(self) -> bool:
        """Whether paragraphs, rows and cells here belong to the accepted view, hidden text or not."""
        return not self._left_out and not any(hidden for tag, hidden in self._holders if tag not in {"r", "p"})

    @property
    def is_shown(self) -> bool:
        """Whether text here belongs to the accepted view."""
        if any(self._fields) or not self.is_kept:
            return False
        # A run says itself what a style says for its paragraph.
        said = [hidden for tag, hidden in self._holders if tag in {"r", "p"} and hidden is not None]
        return not said or not said[-1]

    def unreferenced_notes(self) -> set[tuple[str, str]]:
        """Return the notes to which only deleted or hidden text refers; they went with it."""
        return {note for note, is_shown in self._references.items() if not is_shown}

    def start(self, tag: str, element: Any) -> None:
        """Enter an element; its attributes are known, its children not."""
        if tag in _LEFT_OUT:
            self._left_out += 1
        elif tag in {"tr", "tc", "p", "r", "sdt"}:
            self._holders.append([tag, None])
        elif tag in _NOTES:
            self._holders.append([tag, (tag, attribute(element, "id")) in self._hidden_notes])

    def end(self, tag: str, element: Any) -> None:
        """Leave an element, after its text was taken."""
        if tag in _LEFT_OUT:
            self._left_out -= 1
        parent = element.getparent()
        where = "" if parent is None else str(etree.QName(parent).localname)
        match tag:
            case "del" | "hidden" if where == "trPr" and is_on(element):
                self._hide("tr")
            case "cellDel":
                self._hide("tc")
            case "showingPlcHdr" if is_on(element):
                self._hide("sdt")  # "Click here to enter text"
            case "pStyle" if attribute(element, "val") in self._hidden_styles:
                self._hide("p")
            case "rStyle" if attribute(element, "val") in self._hidden_styles:
                self._hide("r")
            case "vanish" if _is_of_run(parent):
                self._hide("r", is_hidden=is_on(element))
            case "fldChar":
                self._follow_field(attribute(element, "fldCharType"))
            case "footnoteReference" | "endnoteReference":
                note = (tag.removesuffix("Reference"), attribute(element, "id"))
                self._references[note] = self._references.get(note, False) or self.is_shown
            case "tr" | "tc" | "p" | "r" | "sdt" | "footnote" | "endnote":
                self._holders.pop()
                if tag == "p":
                    self._fields = [False for _ in self._fields]  # a code never closed must not hide the rest

    def _hide(self, tag: str, *, is_hidden: bool = True) -> None:
        for holder in reversed(self._holders):
            if holder[0] == tag:
                holder[1] = is_hidden
                return

    def _follow_field(self, kind: str) -> None:
        if kind == "begin":
            self._fields.append(True)
        elif self._fields and kind == "separate":
            self._fields[-1] = False
        elif self._fields and kind == "end":
            self._fields.pop()


def is_deleted_mark(paragraph: Any) -> bool:
    """Whether the end of a paragraph was deleted, so that the next one continues it."""
    marks = (child for child in paragraph.iterfind("{*}pPr/{*}rPr/*"))
    return any(etree.QName(mark).localname in _DELETED_MARKS for mark in marks)


def hidden_styles(styles: Any) -> frozenset[str]:
    """Return the ids of the styles whose text is hidden, by themselves or by the style they build on.

    Args:
        styles: The `style` elements of the styles part.
    """
    own: dict[str, bool] = {}
    base: dict[str, str] = {}
    for style in styles:
        name = attribute(style, "styleId")
        vanish, parent = style.find("{*}rPr/{*}vanish"), style.find("{*}basedOn")
        if vanish is not None:
            own[name] = is_on(vanish)
        base[name] = "" if parent is None else attribute(parent, "val")
    return frozenset(name for name in base if _inherits(name, own, base))


def _inherits(name: str, own: dict[str, bool], base: dict[str, str]) -> bool:
    seen = set()
    while name and name not in seen:  # styles may build on each other in a circle
        if name in own:
            return own[name]
        seen.add(name)
        name = base.get(name, "")
    return False


def attribute(element: Any, name: str) -> str:
    """Return an attribute by its local name, empty when it is missing."""
    return next((str(value) for key, value in element.attrib.items() if etree.QName(key).localname == name), "")


def is_on(element: Any) -> bool:
    """Whether a switch such as `<w:vanish/>` is on; without a value it is."""
    return attribute(element, "val").lower() not in _OFF


def _is_of_run(properties: Any) -> bool:
    """Whether `rPr` belongs to a run; that of a paragraph formats only its mark."""
    holder = None if properties is None else properties.getparent()
    return holder is not None and etree.QName(holder).localname == "r"
