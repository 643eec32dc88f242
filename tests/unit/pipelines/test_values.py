import pytest

from pipelines.fact_support import names, spoken_values, written_values

SAME = [
    ("1,250 L", "1250", "1.250 lít", "1 250"),
    ("2.450.000đ", "2450000 đồng", "2,45 triệu đồng", "2 450 000"),
    ("$37.50", "37.5 USD", "37,50 €"),
    ("5:40 pm", "5.40 p.m.", "17:40", "17h40"),
    ("18 cm", "18cm"),
    ("1.5 million", "1500000", "1,500,000"),
]


@pytest.mark.parametrize("texts", SAME, ids=lambda texts: texts[0])
def test_forms_of_one_number_are_equal(texts: tuple[str, ...]) -> None:
    first, *others = [written_values(text) for text in texts]
    assert all(len(values) == 1 and values[0] & first[0] for values in others)


@pytest.mark.parametrize(
    "text",
    ["3 May 1987", "May 3, 1987", "May 3rd, 1987", "3rd of May 1987", "1987-05-03", "ngày 3 tháng 5 năm 1987"],
)
def test_forms_of_one_date_are_equal(text: str) -> None:
    assert set(written_values(text)) == {frozenset({value}) for value in ("3", "5", "1987")}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("four hundred and twelve", 412),
        ("twenty-one", 21),
        ("one thousand two hundred fifty", 1250),
        ("nine weeks", 9),
        ("chín mươi sáu ngày", 96),
        ("hai mươi bảy lò", 27),
        ("hai trăm ba mươi lăm", 235),
        ("mười hai", 12),
        ("sáu quyển", 6),
    ],
)
def test_words_are_numbers(text: str, number: int) -> None:
    assert spoken_values(text) == [frozenset({str(number)})]


@pytest.mark.parametrize("text", ["năm nay", "the second time", "một người", "no number", "million", ""])
def test_words_that_are_seldom_numbers_are_none(text: str) -> None:
    assert spoken_values(text) == []


def test_names_are_capitalised_words_but_not_the_first_of_a_sentence() -> None:
    assert names("The person in charge is Marisol Quade. Dogs bark.") == ["Marisol", "Quade"]
    assert names("Peyton Manning") == ["Peyton", "Manning"]
    assert names("Dubber") == []
