"""Pages that stand alone: nothing in them is taken for markup, and everybody can read them."""

import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest

from softpatch.errors import InputError
from softpatch.review.page import data_in_page, render_page, visible_text, write_page

PAGES = files("softpatch.review") / "pages"
CSS = "".join((PAGES / name).read_text() for name in ("style.css", "audit.css", "report.css"))
TEXT = [
    *((ink, paper) for ink in ("ink", "quiet", "accent", "good", "check", "anomalous") for paper in ("paper", "panel")),
    ("on-accent", "accent"),
    *(("paper", colour) for colour in ("good", "check", "anomalous")),  # an answer that was given
]
"""Colours of letters, and what they stand on."""


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]


def luminance(colour: str) -> float:
    """The relative luminance of WCAG 2 of `#rrggbb` or `#rgb`."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def colours(media: tuple[str, ...]) -> dict[str, str]:
    """The colours by name where all of `media` hold; what those do not set is of the light scheme."""
    found: dict[str, str] = {}
    for start in (None, *media):
        at = CSS.index(f"@media {start}") if start else 0
        block = CSS[CSS.index(":root {", at) :]
        found |= re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})\b", block[: block.index("}")])
    return found


def test_contrast_is_that_of_wcag() -> None:
    assert contrast("#fff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)  # the lightest grey that just fails


DARK = "(prefers-color-scheme: dark)"


@pytest.mark.parametrize("media", [(), (DARK,), ("print",), (DARK, "print")])
def test_letters_stand_out_in_every_scheme(media: tuple[str, ...]) -> None:
    scheme = colours(media)
    ratios = {pair: contrast(scheme[pair[0]], scheme[pair[1]]) for pair in TEXT}
    assert min(ratios.values()) >= 4.5, {pair: ratio for pair, ratio in ratios.items() if ratio < 4.5}
    for outline in ("accent", "quiet"):  # of what has the focus, and of what is typed into
        assert contrast(scheme[outline], scheme["paper"]) >= 3


def test_no_colour_stands_outside_the_schemes() -> None:
    allowed = {"#000", "#fff", "#000a"}  # of outlines on pictures, white within black, and behind a dialog
    outside = re.sub(r":root \{[^}]*\}", "", CSS)
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[; )])", outside)) <= allowed


@pytest.mark.parametrize("text", ["</script>", "<!--", "&lt;", "\u2028", "'\"", "\udcff"])
def test_data_cannot_leave_its_element(text: str) -> None:
    found = data_in_page({text: text})
    assert not set(found) & set("<>&\u2028\u2029")
    assert found.isascii()


def test_what_cannot_be_seen_is_spelt_out() -> None:
    assert visible_text("a\u202eb\n\udcff\u200bé.png") == "a\\u202eb\\n\\udcff\\u200bé.png"


def test_a_page_asks_for_nothing_and_allows_only_its_own_scripts() -> None:
    page = render_page(
        "audit.html",
        styles=("audit.css",),
        scripts=("belief.js",),
        data={},
        title="<b>",
        kinds={"<i>": "<u>"},
        count=2,
        root="<s>",
    )
    elements = Elements(page)
    assert elements.addresses == ["#main"]
    assert not {"b", "i", "u", "s", "link"} & set(elements.names)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    assert "default-src &#39;none&#39;" in policy[1]
    assert policy[1].count("sha256-") == 1
    assert "unsafe-eval" not in policy[1]
    assert "://" not in page


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("old")
    with pytest.raises(TypeError):
        write_page(tmp_path / "page.html", "audit.html", data={1j: 2}, title="", kinds={}, count=0, root="")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; name a folder"):
        write_page(tmp_path / "file" / "page.html", "audit.html", title="", kinds={}, count=0, root="")
