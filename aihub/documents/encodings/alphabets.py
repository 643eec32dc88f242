"""The letters beyond a to z of languages in Latin script: what a guessed text may hold."""

from collections.abc import Iterable

_NORDIC = "æøåéòóôüäö"
_SOUTH_SLAVIC = "čćđšž"
_VIETNAMESE = "àảãáạăằẳẵắặâầẩẫấậđèẻẽéẹêềểễếệìỉĩíịòỏõóọôồổỗốộơờởỡớợùủũúụưừửữứựỳỷỹýỵ"

ALPHABETS: dict[str, frozenset[str]] = {
    language: frozenset(letters)
    for language, letters in {
        "en": "éèêïñçö",
        "fr": "àâæçéèêëîïôœùûü",
        "de": "äöüßéàè",
        "es": "áéíñóúüç",
        "it": "àèéìíîòóùú",
        "pt": "áàâãçéêíóôõúü",
        "nl": "áéëïóöüèêç",
        "sv": "åäöéàü",
        "da": _NORDIC,
        "no": _NORDIC,
        "nb": _NORDIC,
        "nn": _NORDIC,
        "fi": "äöåšžé",
        "is": "áðéíóúýþæö",
        "fo": "áðíóúýæø",
        "ca": "àçèéíïòóúü",
        "gl": "áéíñóúüï",
        "eu": "ñçü",
        "ga": "áéíóú",
        "sq": "çë",
        "id": "é",
        "ms": "é",
        "tl": "ñ",
        "af": "áéèêëîïôöûü",
        "pl": "ąćęłńóśźż",
        "cs": "áčďéěíňóřšťúůýž",
        "sk": "áäčďéíĺľňóôŕšťúýž",
        "hu": "áéíóöőúüű",
        "ro": "ăâîşţșț",
        "hr": _SOUTH_SLAVIC,
        "bs": _SOUTH_SLAVIC,
        "sr": _SOUTH_SLAVIC,
        "sl": _SOUTH_SLAVIC,
        "tr": "çğıöşüâîû",
        "az": "çəğıöşü",
        "et": "äõöüšž",
        "lv": "āčēģīķļņšūž",
        "lt": "ąčęėįšųūž",
        "vi": _VIETNAMESE,
    }.items()
}


def foreign_letters(letters: Iterable[str], language: str) -> int:
    """Return how many of the lower-case letters beyond ASCII are none of the language's.

    Args:
        letters: As often as they occur.
        language: ISO 639-1 code, one of `ALPHABETS`.
    """
    alphabet = ALPHABETS[language]
    return sum(letter not in alphabet for letter in letters)
