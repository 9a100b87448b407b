"""Personal data by its format and, where the format has one, by its check digits. Every expression runs in linear time.

Offsets are into the text that is given; nothing here looks to the right of a find to decide about it, so a streamed
text and a whole one give the same finds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """Something of kind `kind` at `[start, end)`; `kind` is also the name of its placeholder, as in `[EMAIL_1]`."""

    kind: str
    start: int
    end: int


def luhn(digits: str) -> bool:
    """The check of bank cards: every second digit from the right doubled, the digit sums adding up to a multiple of
    ten."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def resident_id(number: str) -> bool:
    """The check of GB 11643: weighted digits modulo 11, and a birth date that can be."""
    if not (1 <= int(number[10:12]) <= 12 and 1 <= int(number[12:14]) <= 31 and 1850 <= int(number[6:10]) <= 2100):
        return False
    total = sum(int(digit) * pow(2, 17 - i, 11) for i, digit in enumerate(number[:17]))
    return "10X98765432"[total % 11] == number[17].upper()


_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"


def social_credit(code: str) -> bool:
    """The check of GB 32100, the code of Chinese organisations: weights are powers of three modulo 31."""
    if any(char not in _CREDIT_ALPHABET for char in code):
        return False
    total = sum(_CREDIT_ALPHABET.index(char) * pow(3, i, 31) for i, char in enumerate(code[:17]))
    return _CREDIT_ALPHABET[(31 - total % 31) % 31] == code[17]


def iban(code: str) -> bool:
    """The check of ISO 13616: country and check digits moved to the end, letters as numbers, remainder 1 modulo 97."""
    plain = re.sub(r"\s", "", code).upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _card(found: str) -> bool:
    digits = re.sub(r"[ -]", "", found)
    return 13 <= len(digits) <= 19 and digits[0] in "23456" and len(set(digits)) > 1 and luhn(digits)


def _ssn(found: str) -> bool:
    area, group, serial = found.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def _address(found: str) -> bool:
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return False
    return True


def _mail(found: str) -> bool:
    return ".." not in found


_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"

_FORMATS: list[tuple[str, str, Callable[[str], bool]]] = [
    ("email", r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])", _mail),
    ("resident_id", r"(?<![0-9A-Za-z])[1-9]\d{16}[\dXx](?![0-9A-Za-z])", resident_id),
    (
        "social_credit",
        r"(?<![0-9A-Za-z])[0-9A-HJ-NPQRTUWXY]{2}\d{6}[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Za-z])",
        social_credit,
    ),
    ("iban", r"(?<![0-9A-Za-z])[A-Z]{2}\d{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?(?![0-9A-Za-z])", iban),
    ("card", r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])", _card),
    ("phone", r"(?<![\d.+-])(?:(?:\+|00)?86[ -]?)?1[3-9]\d(?:[ -]?\d{4}){2}(?![\d-])", lambda _: True),
    ("phone", r"(?<![\w+])\+[1-9]\d{0,2}[ -]?(?:\(\d{1,4}\)[ -]?)?\d{1,4}(?:[ -]?\d{2,4}){2,4}(?!\d)", lambda _: True),
    ("phone", r"(?<![\w.+-])(?:\(\d{3}\) ?|\d{3}-)\d{3}-\d{4}(?![\d-])", lambda _: True),
    ("phone", r"(?<![\d.+-])0\d{2,3}-\d{7,8}(?![\d-])", lambda _: True),
    ("ssn", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", _ssn),
    (
        "plate",
        rf"[{_PROVINCES}][A-HJ-NP-Z][·\s]?(?:[A-HJ-NP-Z0-9]{{5,6}})(?![A-Za-z0-9])",
        lambda f: any(c.isdigit() for c in f),
    ),
    (
        "passport",
        r"(?i:(?:passport|护照)(?: ?(?:no|number|号码|号))?[ .:：#是为]{0,3})(?P<v>[A-Z]{1,2}\d{7,8})(?![0-9A-Za-z])",
        lambda _: True,
    ),
    ("ip", r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d)", _address),
    ("ip", r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){2,7}(?::|[0-9A-Fa-f]{1,4})(?:[0-9A-Fa-f:]{0,30})(?![\w:])", _address),
    (
        "address",
        r"(?:家住|住在|住址(?:是|[:：])|地址(?:是|[:：]))(?P<v>[\u4e00-\u9fff]{2,16}(?:路|街|道|巷|弄|村)\d{1,5}号(?:[\u4e00-\u9fff\d-]{1,16}室)?)",
        lambda _: True,
    ),
    (
        "address",
        r"(?i:(?:i live at|my address is|home address is|address:) )(?P<v>\d{1,6} (?:[A-Z][\w.]{0,20} ){1,4}"
        r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Way)\b)",
        lambda _: True,
    ),
]
_COMPILED = [(kind, re.compile(pattern), check) for kind, pattern, check in _FORMATS]
_HINT = re.compile(r"\d|@")


def find_pii(text: str) -> list[Span]:
    """All personal data in `text`, left to right, without overlaps; the kind listed first wins."""
    if not _HINT.search(text):
        return []
    taken: list[Span] = []
    for kind, pattern, check in _COMPILED:
        for start, end in _spans(pattern, check, text):
            if all(end <= other.start or other.end <= start for other in taken):
                taken.append(Span(kind, start, end))
    return sorted(taken, key=lambda span: span.start)


def _spans(pattern: re.Pattern[str], check: Callable[[str], bool], text: str) -> Iterator[tuple[int, int]]:
    group: str | int = "v" if "v" in pattern.groupindex else 0
    for match in pattern.finditer(text):
        if check(match[group]):
            yield match.span(group)
