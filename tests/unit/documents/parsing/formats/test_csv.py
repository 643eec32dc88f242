import pytest

from aihub.documents.parsing.clean import DocumentError
from aihub.documents.parsing.extract import extract
from aihub.documents.parsing.formats.csv import read_csv
from aihub.documents.parsing.options import ParseLimits


def test_rows_become_named_values() -> None:
    text = 'Tên,Giá,Ghi chú\n"Áo, dài",500000,\nNón lá,50000,"hai\ndòng"\n'
    assert extract("sp.csv", text.encode("utf-8-sig"), ParseLimits()) == (
        "csv",
        "Tên: Áo, dài\nGiá: 500000\n\nTên: Nón lá\nGiá: 50000\nGhi chú: hai\ndòng",
    )


@pytest.mark.parametrize("delimiter", [";", "\t", "|", ","])
def test_the_delimiter_is_found(delimiter: str) -> None:
    rows = [["id", "name"], ["1", "Bình, An"], ["2", "Cường"]]
    text = "\r\n".join(delimiter.join(f'"{cell}"' if delimiter in cell else cell for cell in row) for row in rows)
    assert read_csv(text, 1000) == "id: 1\nname: Bình, An\n\nid: 2\nname: Cường"


def test_cells_without_a_header_are_numbered_and_blank_rows_dropped() -> None:
    assert read_csv("\n,name\n1,2,3\n\n , \n4\n", 1000) == "column 1: 1\nname: 2\ncolumn 3: 3\n\ncolumn 1: 4"


def test_a_header_alone_is_its_own_text() -> None:
    assert read_csv("một,hai\n", 1000) == "một\nhai"


def test_one_column_is_read() -> None:
    assert read_csv("câu hỏi\nGiá bao nhiêu?\n", 1000) == "câu hỏi: Giá bao nhiêu?"


def test_a_long_header_times_many_rows_is_refused() -> None:
    with pytest.raises(DocumentError) as caught:
        read_csv("h" * 10_000 + ",b\n" + "1,2\n" * 10_000, 1_000_000)
    assert caught.value.code == "too_large"


def test_a_quote_that_never_closes_is_read_as_one_cell() -> None:
    assert read_csv('a,b\n"1,2\n3,4\n', 1000) == "a: 1,2\n3,4"


def test_nothing_but_separators_is_empty() -> None:
    with pytest.raises(DocumentError) as caught:
        extract("a.csv", b",,,\n,,\n", ParseLimits())
    assert caught.value.code == "empty_file"


@pytest.mark.parametrize("delimiter", [";", ",", "\t", "|"])
@pytest.mark.parametrize("line", ["sep={}", '"sep={}"', "SEP={}"])
@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_first_line_of_excel_names_the_delimiter(line: str, delimiter: str, codec: str) -> None:
    text = f"{line.format(delimiter)}\r\nTên{delimiter}Giá\r\nÁo{delimiter}5\r\n"
    assert extract("a.csv", text.encode(codec), ParseLimits())[1] == "Tên: Áo\nGiá: 5"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "Artikel, Größe;Preis\nHemd;19,90\nHose;9,50\n",
            "Artikel, Größe: Hemd\nPreis: 19,90\n\nArtikel, Größe: Hose\nPreis: 9,50",
        ),
        ("Tên;Giá\nÁo;1,5\nMũ;2,5\n", "Tên: Áo\nGiá: 1,5\n\nTên: Mũ\nGiá: 2,5"),
        ("a,b;c,d\n1,5;2,5\n3,5;4,5\n", "a,b: 1,5\nc,d: 2,5\n\na,b: 3,5\nc,d: 4,5"),
        ("name, first;note\nAn;hello, you\nBo;yes, no\n", "name, first: An\nnote: hello, you\n\nname, first: Bo\nnote: yes, no"),
        ("id,text;x\n1,foo;bar\n2,baz;q\n", "id: 1\ntext;x: foo;bar\n\nid: 2\ntext;x: baz;q"),
        ("a,b,c\n1,2,3\n", "a: 1\nb: 2\nc: 3"),
        ('a;b\n"x\ny";1,5\n', "a: x\ny\nb: 1,5"),
        ("price\n1,5\n2,5\n", "price: 1,5\n\nprice: 2,5"),
        ("a\tb\n1,5\t2,5\n", "a: 1,5\nb: 2,5"),
    ],
)
def test_the_rows_decide_between_delimiters(text: str, expected: str) -> None:
    assert read_csv(text, 1000) == expected
