from speechssl.tables import percent, table


def test_numbers_stand_right_and_text_left():
    rows = [["system", "WER %", "words"], ["a", "9.50", "1200"], ["longer", "-", "5"]]
    assert table(rows).split("\n") == [
        "system  WER %  words",
        "a        9.50   1200",
        "longer      -      5",
    ]
    assert table([["name", "what"], ["a", "b1"]]) == "name  what\na     b1"
    assert table([["only", "header"]]) == "only  header"


def test_percent():
    assert percent(0.12345) == "12.35"
    assert percent(1.5) == "150.00"
