import pytest

from aihub.documents.errors import DocumentError
from aihub.documents.extract import extract
from aihub.documents.formats.csv import read_csv
from aihub.documents.options import ParseLimits


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
