import subprocess
import sys

import pytest

from aihub.core.language import UNKNOWN, detect_language


@pytest.mark.parametrize(
    "text, language",
    [
        ("Quy định đổi trả hàng áp dụng cho mọi đơn hàng mua trên trang web của chúng tôi.", "vi"),
        ("The return policy applies to every order placed on our website.", "en"),
        ("Les conditions de retour s'appliquent à toutes les commandes passées sur notre site.", "fr"),
        ("นโยบายการคืนสินค้าใช้กับคำสั่งซื้อทั้งหมด", "th"),
        ("返品ポリシーはすべての注文に適用されます。", "ja"),
    ],
)
def test_sentence_is_recognised(text: str, language: str) -> None:
    assert detect_language(text) == language


@pytest.mark.parametrize("text", ["", "123 456", "!!! 🍜 ---"])
def test_text_without_letters_is_undetermined(text: str) -> None:
    assert detect_language(text) == UNKNOWN


def test_only_the_beginning_of_a_huge_text_is_read() -> None:
    assert detect_language("The shop opens at nine in the morning. " * 40 + "Cửa hàng mở cửa. " * 200_000) == "en"


def test_importing_loads_no_model() -> None:
    code = (
        "import sys, aihub.documents.search.analysis, aihub.documents.search.query_language; sys.exit('py3langid' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
