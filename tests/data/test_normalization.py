from __future__ import annotations

import unicodedata

import pytest

from speechssl.data.normalization import normalize_text, split_code


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Hello,\tWORLD!\n", "hello world"),
        ("re-record and/or stop", "re record and or stop"),
        ("don't say 'yes' or ''no''", "don't say yes or no"),
        ("the dogs' bowls", "the dogs bowls"),
        ("l’heure, l`heure, l´heure", "l'heure l'heure l'heure"),
        ("At 5 a.m. in the U.S.A.", "at 5 am in the usa"),
        ("Stop. Go.Now", "stop go now"),
        ("under_score — dash – dash", "under score dash dash"),
        ("“quoted” «слово» …", "quoted слово"),
        ("soft\u00adhyphen \ufeffmark", "softhyphen mark"),
        ("I ❤\ufe0f you 1\ufe0f\u20e3", "i you 1"),
        ("葛\U000e0100城", "葛城"),
        ("❤\ufe0f", ""),
        ("", ""),
        ("?! ...", ""),
    ],
)
def test_punctuation_and_case(text: str, expected: str) -> None:
    assert normalize_text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("НАЖМИТЕ РЕШЁТКУ.", "нажмите решётку"),
        ("Cafe\u0301 ÉTÉ", "café été"),
        ("cafe\u00ad\u0301", "café"),
        ("नमस्ते, दुनिया।", "नमस्ते दुनिया"),
        ("สวัสดี ชาวโลก!", "สวัสดี ชาวโลก"),
        ("مَرْحَبًا، بالعالم؟", "مَرْحَبًا بالعالم"),
        ("你好，世界。", "你好 世界"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("п’ять", "п'ять"),
        ("ΟΔΟΣ", "οδος"),
    ],
)
def test_every_script_keeps_its_letters_and_marks(text: str, expected: str) -> None:
    normalized = normalize_text(text)
    assert normalized == unicodedata.normalize("NFC", expected)
    assert unicodedata.is_normalized("NFC", normalized)


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Press 1, then 21.", "en", "press one then twenty one"),
        ("a 28.8 kilobit modem", "en", "a twenty eight point eight kilobit modem"),
        ("1,000 or 1,000.5", "en", "one thousand or one thousand point five"),
        ("the 1st and 22nd", "en", "the first and twenty second"),
        ("code 007", "en", "code zero zero seven"),
        ("version 1.2.3 at 10:30", "en", "version one two three at ten thirty"),
        ("3D audio", "en", "three d audio"),
        ("Marque 1 o 500", "es", "marque uno o quinientos"),
        ("1.000 veces, el 1º", "es-MX", "mil veces el primero"),
        ("appuyez sur 5", "fr", "appuyez sur cinq"),
        ("le 1er et 28,8", "fr", "le premier et vingt huit virgule huit"),
        ("premere 8", "it", "premere otto"),
        ("нажмите 2 или 11", "ru", "нажмите два или одиннадцать"),
        ("28,8 килобит", "ru", "двадцать восемь целых восемь десятых килобит"),
        ("drücken Sie 5", "de_DE", "drücken sie fünf"),
        ("اضغط ٣", "ar", "اضغط ثلاثة"),
        ("IĞDIR", "tr", "ığdır"),
        ("no words for 12", "xx", "no words for 12"),
        ("language unknown 12", None, "language unknown 12"),
    ],
)
def test_digits_become_words(text: str, language: str | None, expected: str) -> None:
    assert normalize_text(text, language) == expected


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("tr", "IĞDIR ve İZMİR", "ığdır ve izmir"),
        ("az", "QIZIL İLDƏ", "qızıl ildə"),
        ("en", "I saw İzmir", "i saw izmir"),
        ("de", "GROẞE Straße", "große straße"),
        ("fr", "L’ heure qu' il est, aujourd’hui", "l'heure qu'il est aujourd'hui"),
        ("it", "Dell' arte, l’altro e un po'", "dell'arte l'altro e un po"),
        ("it", "'ciao' disse", "ciao disse"),
        ("ca", "L' aigua d’ahir", "l'aigua d'ahir"),
        ("nl", "ĳs en Ĳmuiden", "ijs en ijmuiden"),
        ("ro", "ŞTIINŢA aşa", "știința așa"),
        ("uz", "Oʻzbek g‘oya oʼt", "o'zbek g'oya o't"),
        ("haw", "ʻōlelo", "ʻōlelo"),
        ("el", "Ο ΔΡΟΜΟΣ", "ο δρομος"),
        ("ru", "Ёлка", "ёлка"),
        ("uk", "п’ять і м'яч", "п'ять і м'яч"),
        ("ar", "مَرْحَبًا، كتـــاب هٰذا", "مرحبا كتاب هذا"),
        ("ar", "ﻻ ﺃحد", "لا أحد"),
        ("fa", "كتابي می\u200cخواهم", "کتابی می\u200cخواهم"),
        ("ur", "كِتاب يہ", "کتاب یہ"),
        ("he", "שָׁלוֹם, עוֹלָם", "שלום עולם"),
        ("he", 'צה״ל וארה"ב, ג׳ירפה', "צהל וארהב ג'ירפה"),
        ("yi", "ייִדיש אָבער", "ייִדיש אָבער"),
        ("hi", "क़लम, दुनिया।", "क़लम दुनिया"),
        ("zh", "你好，世界 。", "你好世界"),
        ("cmn_hans_cn", "我 用 iPhone Pro 打字", "我用iphone pro打字"),
        ("yue", "佢 哋 「嚟」 咗", "佢哋嚟咗"),
        ("ja", "コーヒー、 ください！", "コーヒーください"),
        ("ja", "ｺｰﾋｰをＡＢＣで", "コーヒーをabcで"),
        ("ko", "안녕하세요, 세계!", "안녕하세요 세계"),
        ("th", "สวัสดี ชาวโลก", "สวัสดี ชาวโลก"),
        ("vi", "Tiê\u0301ng Viê\u0323t", "tiếng việt"),
        ("en", "ﬁve oﬃces", "five offices"),
    ],
)
def test_rules_of_languages(language: str, text: str, expected: str) -> None:
    normalized = normalize_text(text, language)
    assert normalized == unicodedata.normalize("NFC", expected)
    assert normalize_text(normalized, language) == normalized, "once is enough"


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("hi", "१२ लोग", "12 लोग"),
        ("bn", "২", "দুই"),
        ("fa", "۵", "پنج"),
        ("pt", "16", "dezasseis"),
        ("pt-BR", "16", "dezesseis"),
        ("pt_br", "16", "dezesseis"),
        ("fr_CH", "90", "nonante"),
        ("fr_FR", "90", "quatre vingt dix"),
        ("nb_no", "3", "tre"),
        ("kk", "2", "екі"),
        ("fil_ph", "ang 2", "ang 2"),
        ("ceb_ph", "ang 2", "ang 2"),
        ("fr", "1\u202f000 pages", "mille pages"),
        ("de", "1.000 oder 1,5", "eintausend oder eins komma fünf"),
        (None, "١٢ २", "12 2"),
        ("zh", "１２ 个", "12个"),
    ],
)
def test_digits_of_scripts_and_regions(language: str | None, text: str, expected: str) -> None:
    assert normalize_text(text, language) == unicodedata.normalize("NFC", expected)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("en", ("en", None)),
        ("pt-BR", ("pt", "br")),
        ("cmn_hans_cn", ("zh", "cn")),
        ("", (None, None)),
        (None, (None, None)),
    ],
)
def test_codes(code: str | None, expected: tuple[str | None, str | None]) -> None:
    assert split_code(code) == expected


def test_numbers_that_num2words_cannot_say() -> None:
    spoken = " ".join(normalize_text(digit, "am") for digit in "12345678")
    assert normalize_text("12345678", "am") == spoken  # it would never come back
    assert normalize_text("3,14", "ce") == "3 14"


@pytest.mark.parametrize("language", ["en", "es", "fr", "it", "ru", "de"])
@pytest.mark.parametrize("number", ["0", "7", "99", "1234", "2,5", "12345678901234567890"])
def test_no_digit_and_no_mark_is_left(language: str, number: str) -> None:
    text = normalize_text(f"{number}.", language)
    assert text.replace(" ", "").isalpha()
    assert normalize_text(text, language) == text
