"""The page of an audit in a browser: what it shows, what keys and buttons do, and that answers survive."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from audit_page import made_up_audit, one_picture
from browser import wait_until

from softpatch.data.cells import path_cell
from softpatch.data.decisions import read_decisions
from softpatch.memory.belief import Hypotheses, believe, next_question
from softpatch.review import audit_page
from softpatch.review.audit import FolderAudit
from softpatch.review.audit_page import PAGE, write_audit_page
from softpatch.review.groups import ImageGroup
from softpatch.review.page import visible_text

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
NAMES = [*(f"good/{number}.png" for number in range(39)), "new/39.png"]
GROUPS = (
    ImageGroup("repeated defect", (1, 3, 5), "3 images show the same at the same place"),
    ImageGroup("copies", (30, 31), "2 images are equal to the last pixel"),
)
HOSTILE = [
    '"><img src=x onerror=stolen=1>.png',
    "</script><script>stolen=1</script>.png",
    'it\'s "quoted".png',
    "two\nlines\r.png",
    "bidi\u202egnp.exe",
    "=1+1.png",
    "a,b;c\td.png",
    "not-utf8-\udcff.png",
    "'apostrophe.png",
    "&amp;&lt;.png",
    "x" * 300 + ".png",
]


@pytest.fixture(scope="module")
def audit() -> FolderAudit:
    return replace(made_up_audit(NAMES, anomalous=10), groups=GROUPS)


@pytest.fixture(scope="module")
def page_file(audit: FolderAudit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    write_audit_page(audit, folder, one_picture)
    return folder / PAGE


def shown(page: "Page") -> list[str]:
    """The paths that the gallery shows, in order, of however many cards exist."""
    return page.evaluate("items.map((item) => images[item.number].path)")


def decided(page: "Page") -> dict[int, str]:
    return dict(page.evaluate("[...decisions]"))


def press(page: "Page", keys: str) -> None:
    for key in keys.split():
        page.keyboard.press(key)
        if key == "Escape":  # the browser closes a dialog some time after the key
            page.locator("dialog[open]").wait_for(state="detached")


def saved_rows(page: "Page") -> list[list[str]]:
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "decisions.csv"
    path = Path(download.value.path())
    rows = list(csv.reader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True))
    assert read_decisions(path) == dict(rows[1:])  # as `fit` reads it
    return rows


def test_the_most_suspicious_come_first_and_each_card_says_why(
    audit: FolderAudit, page_file: Path, open_page: Open
) -> None:
    page = open_page(page_file)
    assert shown(page) == NAMES
    first = page.locator(".card").first
    assert first.locator(".path").inner_text() == "good/0.png"
    assert first.locator(".belief").inner_text() == f"{100 * audit.images[0].suspicion:.0f} %: probably anomalous"
    assert first.locator("p.quiet").inner_text() == f"{np.exp(2.5) / 2:.2f} \u00d7 threshold"
    page.select_option("#order", "path")
    assert shown(page) == NAMES  # 2 before 10
    page.select_option("#order", "group")
    assert page.locator(".heading h2").first.inner_text() == "The same defect again and again 3 images"
    assert page.locator(".heading p").first.inner_text() == GROUPS[0].evidence
    assert shown(page)[:5] == [NAMES[number] for number in (1, 3, 5, 30, 31)]
    assert len(shown(page)) == 40


def test_keys_answer_move_and_take_back(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    press(page, "r ArrowRight k j u ArrowLeft ArrowLeft")
    assert decided(page) == {0: "reject", 1: "keep", 2: "unsure"}
    assert page.locator(".card.current .path").inner_text() == "good/0.png"
    assert page.locator(".card.current").evaluate("(card) => card === document.activeElement")
    assert page.locator(".card.current button[aria-pressed=true]").inner_text() == "Reject"
    assert page.locator("#progress").inner_text().startswith("3 of about ")
    before = page.locator("#contamination").inner_text()
    press(page, "End u")  # which tells nothing of the others
    assert page.locator("#contamination").inner_text() == before
    press(page, "z Home")
    press(page, "r")  # once more takes it back
    assert decided(page) == {1: "keep", 2: "unsure"}
    press(page, "z z")
    assert decided(page) == {0: "reject", 1: "keep"}
    press(page, "z z z")
    assert decided(page) == {}
    assert page.locator("#undo").is_disabled()
    page.keyboard.press("ArrowDown")
    columns = page.evaluate("columns")
    assert page.locator(".card.current .path").inner_text() == f"good/{columns}.png"
    press(page, "End ArrowDown")
    assert page.locator(".card.current .path").inner_text() == "new/39.png"
    assert page.locator(".card.current").evaluate("(card) => card.getBoundingClientRect().bottom <= innerHeight")
    press(page, "Home ArrowUp")
    assert page.locator(".card.current .path").inner_text() == "good/0.png"


def test_buttons_answer_for_the_image_they_stand_at(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    page.get_by_role("button", name="Reject good/4.png").click()
    page.get_by_role("button", name="Keep good/7.png").click()
    assert decided(page) == {4: "reject", 7: "keep"}
    assert page.locator("#said").inner_text() == "Kept good/7.png"
    assert page.get_by_role("button", name="Keep good/7.png").get_attribute("aria-pressed") == "true"
    page.click("#undo")
    assert decided(page) == {4: "reject"}
    assert page.locator(".card[tabindex='0']").count() == 1  # one stop of the tab key, whatever the number of cards


def test_the_next_question_is_the_one_that_teaches_most(audit: FolderAudit, page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    x = np.array([image.evidence for image in audit.images])
    answers: dict[int, bool] = {}
    page.select_option("#filter", "keep")  # which does not show it; the filter gives way
    for key, is_anomalous in (("r", True), ("k", False), ("r", True)):
        number = next_question(believe(x, audit.hypotheses, answers).suspicion, frozenset(answers))
        assert number is not None
        press(page, f"n {key}")
        answers[number] = is_anomalous
    assert decided(page) == {number: "reject" if answer else "keep" for number, answer in answers.items()}
    belief = believe(x, audit.hypotheses, answers)
    low, high = (round(100 * share) for share in (belief.low, belief.high))
    assert page.locator("#contamination").inner_text() == f"Between {low} % and {high} % of the images are anomalous."


def test_belief_is_what_python_computes(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    rng = np.random.default_rng(0)
    for _ in range(25):
        images, hypotheses = int(rng.integers(1, 40)), int(rng.integers(1, 12))
        x = np.round(rng.normal(0, 3, images), 2)
        told = Hypotheses(
            rng.normal(1, 3, hypotheses), rng.uniform(0.2, 20, hypotheses), rng.dirichlet([1] * hypotheses)
        )
        chosen = rng.permutation(images)[: rng.integers(0, images + 1)]
        answers = {int(number): bool(rng.integers(2)) for number in chosen}
        belief = believe(x, told, answers)
        given = {name: getattr(told, name).tolist() for name in ("centres", "slopes", "weights")}
        found = page.evaluate(
            """([x, told, answers, asked]) => {
                const belief = believe(x, told, new Map(answers));
                const next = nextQuestion(belief.suspicion, new Set(asked));
                return { ...belief, suspicion: [...belief.suspicion], next };
            }""",
            [x.tolist(), given, list(answers.items()), list(answers)],
        )
        assert found["suspicion"] == pytest.approx(belief.suspicion, abs=1e-12)
        for name in ("contamination", "low", "high"):
            assert found[name] == pytest.approx(getattr(belief, name), abs=1e-12)
        expected = next_question(belief.suspicion, frozenset(answers))
        assert (found["next"] is None) == (expected is None)
        if expected is not None:  # of two that are equal but for rounding either will do
            distance = abs(belief.suspicion[found["next"]] - 0.5)
            assert distance == pytest.approx(abs(belief.suspicion[expected] - 0.5), abs=1e-12)


def test_a_group_is_answered_at_once_and_taken_back_at_once(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    press(page, "ArrowRight Shift+R")
    assert decided(page) == dict.fromkeys((1, 3, 5), "reject")
    page.select_option("#order", "group")
    page.get_by_role("button", name="Keep all 2: Copies of one image").click()
    assert decided(page) == {**dict.fromkeys((1, 3, 5), "reject"), 30: "keep", 31: "keep"}
    page.click("#undo")
    page.click("#undo")
    assert decided(page) == {}
    page.select_option("#order", "suspicion")
    press(page, "Home Shift+K")
    assert decided(page) == {}
    assert page.locator("#said").inner_text() == "good/0.png is in no group"


def test_heat_maps_on_focus_and_by_a_key(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file, reduced_motion="reduce")
    second = page.locator(".card").nth(1).locator(".heat")
    assert second.evaluate("(heat) => getComputedStyle(heat).opacity") == "0"
    assert page.locator(".card").nth(12).locator(".heat").count() == 0  # nothing to show
    press(page, "ArrowRight")
    assert second.evaluate("(heat) => getComputedStyle(heat).opacity") == "1"
    press(page, "ArrowRight h")
    assert second.evaluate("(heat) => getComputedStyle(heat).opacity") == "1"
    assert page.locator("#heat").get_attribute("aria-pressed") == "true"
    page.click("#heat")
    assert second.evaluate("(heat) => getComputedStyle(heat).opacity") == "0"


def test_filters_and_search(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    press(page, "r j k j u")
    for name, expected in {
        "reject": NAMES[:1],
        "keep": NAMES[1:2],
        "unsure": NAMES[2:3],
        "unanswered": NAMES[3:],
    }.items():
        page.select_option("#filter", name)
        assert shown(page) == expected
    page.locator(".card").first.focus()
    press(page, "r r")  # what is answered leaves, and the next takes its place
    assert shown(page) == NAMES[5:]
    assert page.locator(".card.current").evaluate("(card) => card === document.activeElement")
    page.select_option("#filter", "group:copies")
    assert shown(page) == NAMES[30:32]
    assert page.locator("#shown").inner_text() == "2 of 40 images shown."
    page.select_option("#filter", "all")
    page.locator(".card").first.focus()
    page.keyboard.press("/")
    page.keyboard.type("D/1")  # letters are text here, not answers
    assert shown(page) == [name for name in NAMES if "d/1" in name]
    press(page, "Escape")
    assert page.locator(".card.current").evaluate("(card) => card === document.activeElement")
    page.fill("#search", "nothing of the kind")
    assert page.locator(".card").count() == 0
    page.locator("#heat").focus()
    press(page, "r ArrowDown n")  # no card, no harm; the next question shows all again
    assert len(shown(page)) == 40


def test_an_image_larger_with_regions_and_what_they_should_look_like(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    press(page, "ArrowRight Enter")
    detail = page.locator("#detail")
    assert detail.locator("h2").inner_text() == "good/1.png"
    assert detail.locator("rect.inner").evaluate("(rect) => [rect.x, rect.width].map((it) => it.baseVal.value)") == [
        16,
        16,
    ]
    assert detail.locator(".region p").inner_text() == "1 other image shows the same."
    assert detail.locator(".region figcaption").all_inner_texts() == ["Here", "It should look like this: new/39.png"]
    assert (
        detail.locator(".region img").evaluate_all("(all) => Promise.all(all.map((each) => each.decode()))") is not None
    )
    assert "The same defect again and again" in detail.inner_text()
    press(page, "r")
    assert detail.locator("#detail-answers button[aria-pressed=true]").inner_text() == "Reject"
    assert "rejected" in detail.locator("#detail-facts").inner_text()
    press(page, "ArrowRight k")
    assert detail.locator("h2").inner_text() == "good/2.png"
    detail.get_by_role("button", name="Previous").click()
    detail.get_by_role("button", name="Unsure", exact=True).click()
    assert decided(page) == {1: "unsure", 2: "keep"}
    press(page, "n")
    question = detail.locator("h2").inner_text()
    press(page, "Escape")
    assert not detail.is_visible()
    assert page.locator(".card.current .path").inner_text() == question
    assert page.locator(".card.current").evaluate("(card) => card === document.activeElement")
    page.locator(".card .thumb").first.click()
    assert detail.is_visible()


def test_the_list_of_keys_and_how_to_switch_letters_off(page_file: Path, open_page: Open) -> None:
    page = open_page(page_file)
    press(page, "? r")
    assert page.locator("#keys").is_visible()
    page.uncheck("#single-keys")
    press(page, "Escape r h ArrowRight")
    assert decided(page) == {}
    assert page.locator(".card.current .path").inner_text() == "good/1.png"


def test_answers_survive_a_reload_and_another_audit_has_its_own(
    audit: FolderAudit, page_file: Path, open_page: Open, tmp_path: Path
) -> None:
    page = open_page(page_file)
    press(page, "r j k")
    page.reload()
    assert decided(page) == {0: "reject", 1: "keep"}
    assert page.locator(".card button[aria-pressed=true]").count() == 2
    assert page.locator("#warning").is_hidden()
    other = replace(audit, images=audit.images[:-1], groups=())
    write_audit_page(other, tmp_path, one_picture)
    page.goto((tmp_path / PAGE).as_uri())
    assert decided(page) == {}


def test_decisions_of_the_audit_are_where_it_begins(audit: FolderAudit, open_page: Open, tmp_path: Path) -> None:
    told = replace(audit, decisions={NAMES[2]: "reject", NAMES[20]: "keep", NAMES[21]: "unsure"})
    write_audit_page(told, tmp_path, one_picture)
    page = open_page(tmp_path / PAGE)
    assert decided(page) == {2: "reject", 20: "keep", 21: "unsure"}
    press(page, "ArrowRight ArrowRight r")  # taken back, which a reload does not undo
    page.reload()
    assert decided(page) == {20: "keep", 21: "unsure"}


@pytest.mark.parametrize("kept", ["[[0,'reject']]", '[[99,"reject"],[1,"burn"],[2,"keep"]]', '{"a":1}', "7", "null"])
def test_what_others_left_in_the_storage_does_no_harm(page_file: Path, open_page: Open, kept: str) -> None:
    page = open_page(page_file)
    page.evaluate("(kept) => localStorage.setItem(storageKey, kept)", kept)
    page.reload()
    assert decided(page) in ({}, {2: "keep"})
    press(page, "r")
    assert decided(page)[0] == "reject"


def test_where_nothing_may_be_stored_the_page_says_so(page_file: Path, open_page: Open) -> None:
    denied = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('denied') } })"
    page = open_page(page_file, script=denied)
    press(page, "r")
    assert decided(page) == {0: "reject"}
    assert "last until it is closed" in page.locator("#warning").inner_text()


def test_decisions_are_saved_and_loaded(page_file: Path, open_page: Open, tmp_path: Path) -> None:
    page = open_page(page_file)
    assert page.locator("#save").is_disabled()
    press(page, "r End u")
    rows = saved_rows(page)
    assert rows == [["path", "decision"], ["good/0.png", "reject"], ["new/39.png", "unsure"]]
    table = tmp_path / "edited.csv"
    table.write_text('Path;Note;Decision\r\n"good/3.png";"a ""b""";Keep\r\n\r\ngood/4.png;;\r\nelsewhere.png;;reject')
    page.set_input_files("#file", table)
    wait_until(page, "decisions.get(3) === 'keep'")
    assert decided(page) == {0: "reject", 39: "unsure", 3: "keep"}
    assert page.locator("#said").inner_text() == "Loaded 1 decisions; 1 more are about images that are not here"
    page.click("#undo")
    assert decided(page) == {0: "reject", 39: "unsure"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it lacks the columns path and decision"),
        ("path,verdict\na,keep\n", "it lacks the columns path and decision"),
        ("path,decision\ngood/0.png,burn\n", "row 2 says “burn”, which is neither keep, reject nor unsure"),
        ("path,decision\ngood/0.png\n", "row 2 is cut off"),
        ('path,decision\n"good/0.png', "it ends within a quoted cell"),
        ("path,decision\nelsewhere.png,keep\n", "none of its 1 paths is among these images"),
    ],
)
def test_a_broken_table_is_refused_in_one_sentence(
    page_file: Path, open_page: Open, tmp_path: Path, text: str, said: str
) -> None:
    page = open_page(page_file)
    press(page, "k")
    (tmp_path / "broken.csv").write_text(text)
    page.set_input_files("#file", tmp_path / "broken.csv")
    wait_until(page, "document.getElementById('said').textContent.startsWith('Nothing')")
    assert page.locator("#said").inner_text() == f"Nothing was loaded from this file: {said}."
    assert decided(page) == {0: "keep"}


def test_hostile_names_are_shown_as_they_are_and_come_back(open_page: Open, tmp_path: Path) -> None:
    audit = replace(
        made_up_audit(HOSTILE, anomalous=9),
        groups=(ImageGroup("blur", (0, 1), "<b>2</b> images of \u202edorw are blurred"),),
    )
    write_audit_page(audit, tmp_path, one_picture, title="</title><script>stolen=1</script>")
    page = open_page(tmp_path / PAGE)
    page.select_option("#order", "group")
    page.select_option("#order", "suspicion")
    assert page.locator(".card .path").all_inner_texts() == [visible_text(name) for name in HOSTILE]
    for number in range(len(HOSTILE)):
        press(page, "r Enter ArrowRight Escape")
        assert decided(page)[number] == "reject"
    assert page.evaluate("typeof stolen") == "undefined"
    assert page.locator("img[src=x], script[src], b").count() == 0
    rows = saved_rows(page)[1:]
    assert rows == [[path_cell(name), "reject"] for name in HOSTILE]
    assert not [path for path, _ in rows if path.startswith(("=", "+", "-", "@"))]
    (tmp_path / "saved.csv").write_text(
        "path,decision\n" + "".join(f"{json.dumps(name)},keep\n" for name in ["&amp;&lt;.png"]), encoding="utf-8"
    )
    page.set_input_files("#file", tmp_path / "saved.csv")
    wait_until(page, "[...decisions.values()].includes('keep')")
    assert decided(page)[HOSTILE.index("&amp;&lt;.png")] == "keep"


def test_on_paper_the_suspects_with_pictures_and_decisions(page_file: Path, open_page: Open, tmp_path: Path) -> None:
    page = open_page(page_file)
    press(page, "k j r End u")
    page.pdf(path=tmp_path / "printed.pdf")
    assert b"/Subtype /Image" in (tmp_path / "printed.pdf").read_bytes()
    page.emulate_media(media="print")
    rows = page.locator("#printed tr").all_inner_texts()
    assert rows[0].split("\t")[1:3] == ["good/1.png", "rejected: anomalous"]
    assert rows[-1].split("\t")[1] == "new/39.png"
    assert not [row for row in rows if "good/0.png" in row]
    assert page.locator("#printed").is_visible()
    assert not page.locator("#gallery").is_visible()


def test_of_ten_thousand_images_few_cards_exist(
    open_page: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 10_000
    pixel = audit_page.small_picture(one_picture(""), 8)
    monkeypatch.setattr(audit_page, "MOST_INSIDE", count)  # as many files would take their time
    monkeypatch.setattr(audit_page, "small_picture", lambda *_: pixel)
    monkeypatch.setattr(audit_page, "small_heat", lambda _: None)
    names = [f"{number:05d}.png" for number in range(count)]
    write_audit_page(made_up_audit(names, anomalous=0), tmp_path, one_picture)
    page = open_page(tmp_path / PAGE)
    session = page.context.new_cdp_session(page)

    def heap() -> float:
        session.send("HeapProfiler.collectGarbage")
        return page.evaluate("performance.memory.usedJSHeapSize")

    height = page.evaluate("document.body.scrollHeight")
    before, most = heap(), 0
    for place in np.linspace(0, height, 30):
        page.evaluate(
            "(place) => new Promise((done) => { scrollTo(0, place); requestAnimationFrame(() => setTimeout(done)); })",
            place,
        )
        most = max(most, page.locator(".card").count())
    assert page.locator(".card").last.locator(".path").inner_text() == names[-1]
    assert 0 < most < 100
    assert heap() - before < 8e6
    press(page, "Home r End")
    assert decided(page) == {0: "reject"}
    page.fill("#search", "09999")
    assert shown(page) == names[-1:]


@pytest.mark.usefixtures("browser")
def test_the_benchmark_of_the_page_runs() -> None:
    command = [sys.executable, str(Path(__file__).parents[2] / "benchmarks/audit_page.py"), "--images", "12"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "first paint with content" in ran.stdout
    assert "MB, 12 cards" in ran.stdout
