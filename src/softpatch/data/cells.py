"""Text in the cells of CSV tables, which spreadsheets open: no text is taken for a formula, and every name is kept."""

import re

_FORMULA = re.compile(r"(^|[;\t\r\n])[\s\0]*[=+\-@\uff0b\uff0d\uff1d\uff20]")
"""Where a formula may begin: at the beginning, or behind what some spreadsheets end a cell with."""


def table_cell(value: object) -> object:
    """A value for a table in CSV: text that a spreadsheet could take for a formula, or divide, is made harmless.

    >>> [table_cell(value) for value in ("a.png", " =1+1", "x;@y", -1.5)]
    ['a.png', "' =1+1", "'x;@y", -1.5]
    """
    return _harmless(value) if isinstance(value, str) else value


def path_cell(path: str) -> str:
    """As `table_cell`, but what is made of a relative path still leads to the file, where `./` alone suffices.

    Bytes of a name that are not UTF-8 are written as `\\udc..`.

    >>> [path_cell(path) for path in ("a.png", "=1.png", "x;@y.png")]
    ['a.png', './=1.png', "'x;@y.png"]
    """
    text = path.encode("utf-8", "backslashreplace").decode()
    return f"./{text}" if _FORMULA.match(text) and not _FORMULA.search(f"./{text}") else _harmless(text)


def _harmless(text: str) -> str:
    return f"'{text}" if _FORMULA.search(text) else text
