"""The page of the server in a real browser: images in, verdicts and pictures out, and a threshold to move."""

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import wait_until
from PIL import Image

from conftest import plate
from serving import Served, serving
from softpatch.estimator import SoftPatch

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Open = Callable[..., "Page"]
TOKEN = "a-token-of-24-characters"
CARDS = """[...document.querySelectorAll('.case')].filter((it) => it.checkVisibility())
    .map((it) => [it.querySelector('h2').textContent, it.dataset.verdict])"""


@pytest.fixture(scope="module")
def model(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "flange.safetensors"
    fitted.save(path)
    return path


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(model) as served:
        yield served


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good plates, a defective one, and a file that is no image."""
    root = tmp_path_factory.mktemp("photos") / "line-3"
    root.mkdir()
    for name, seed in (("=good.png", 60), ("good<b>.png", 61), ("bad.png", 101)):
        Image.fromarray(plate(seed, defective=seed > 100)).save(root / name)
    (root / "none.png").write_bytes(b"no image")
    return root


@pytest.fixture
def open_served(browser: "Browser") -> Iterator[Open]:
    """Open a server's page; it may ask that server alone, and complain of nothing that is not expected."""
    contexts, complaints = [], []

    def opened(served: Served, *, expected: str = "\0", script: str = "", **options: object) -> "Page":
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(10_000)
        context.add_init_script(script)
        page = context.new_page()
        allowed = (f"{served.address}/", "data:", "blob:")
        page.on("request", lambda it: it.url.startswith(allowed) or complaints.append(it.url))
        page.on("console", lambda it: it.type in ("error", "warning") and expected not in it.text
                and complaints.append(it.text))  # fmt: skip
        page.on("pageerror", lambda it: complaints.append(str(it)))
        page.goto(served.address)
        wait_until(
            page, "document.getElementById('model').options.length || !document.getElementById('token-form').hidden"
        )
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def test_the_page_of_routes(open_served: Open, model: Path) -> None:
    with serving(model, token=TOKEN) as served:
        page = open_served(served, expected="401 (Unauthorized)")
        page.goto(f"{served.address}/docs")
        page.locator("#operations-For_people-predict_v1_predict_post").wait_for()
        paths = page.locator(".opblock-summary-path").all_inner_texts()
        assert {"/v1/predict", "/v2/health/ready", "/v2/models/{name}/infer", "/metrics"} <= {
            path.replace("\u200b", "") for path in paths
        }
        page.get_by_role("button", name="Authorize").click()
        page.locator("#auth-bearer-value").fill(TOKEN)
        page.locator(".auth-btn-wrapper .authorize").click()
        page.locator(".btn-done").click()
        page.locator("#operations-For_people-models_v1_models_get .opblock-summary-control").click()
        page.locator("#operations-For_people-models_v1_models_get .try-out__btn").click()
        page.locator("#operations-For_people-models_v1_models_get .execute").click()
        page.locator("#operations-For_people-models_v1_models_get .live-responses-table .response").first.wait_for()
        assert (
            "flange" in page.locator("#operations-For_people-models_v1_models_get .live-responses-table").inner_text()
        )


def judge(page: "Page", *paths: Path) -> None:
    page.set_input_files("#files", [str(path) for path in paths])
    wait_until(page, "document.querySelector('[data-count=waiting]').textContent === '0'")


def test_images_are_judged_and_the_threshold_moves_without_a_request(
    served: Served, folder: Path, fitted: SoftPatch, open_served: Open
) -> None:
    page = open_served(served, expected="400 (Bad Request)")
    judge(page, *sorted(folder.iterdir()))
    expected = {"=good.png": "good", "good<b>.png": "good", "bad.png": "anomalous", "none.png": "error"}
    assert dict(page.evaluate(CARDS)) == expected
    said = page.locator(".case", has_text="none.png").locator(".said").text_content()
    assert said is not None
    assert "the file is not a PNG" in said
    bad = page.locator(".case", has_text="bad.png")
    prediction = fitted.predict(folder / "bad.png")
    assert f"{prediction.margin:.2f} times the threshold" in (bad.locator(".said").text_content() or "")
    boxes = bad.locator("svg rect:not(.rim)").evaluate_all(
        "(all) => all.map((it) => ['x', 'y', 'width', 'height'].map((name) => Number(it.getAttribute(name))))"
    )
    expected_boxes = [[x, y, right - x, bottom - y] for x, y, right, bottom in (it.box for it in prediction.regions())]
    assert sorted(boxes) == sorted(expected_boxes)
    requests: list[str] = []
    page.on("request", lambda it: requests.append(it.url))
    page.fill("#exact", str(round(prediction.margin + 0.1, 2)))
    page.press("#exact", "Enter")
    assert dict(page.evaluate(CARDS))["bad.png"] in ("check", "good")
    assert bad.locator("svg").locator("rect").count() == 0
    page.fill("#exact", "0.01")
    page.press("#exact", "Enter")
    assert set(dict(page.evaluate(CARDS)).values()) == {"anomalous", "error"}
    good = page.locator(".case", has_text="=good.png")
    assert good.locator("svg path:not(.rim)").count() == 1  # a cross where there is no region
    page.click("#reset")
    assert dict(page.evaluate(CARDS)) == expected
    page.focus("#factor")
    for _ in range(30):
        page.keyboard.press("ArrowLeft")
    assert page.input_value("#exact") == "0.7"
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == []


def test_an_alarm_is_said_beside_the_model_and_images_of_the_page_do_not_count(
    fitted: SoftPatch, folder: Path, open_served: Open, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "flange.safetensors")
    fitted.save(tmp_path / "screw.safetensors")
    with serving(tmp_path) as served:
        for number in range(50):
            file = io.BytesIO()
            light = 1 if number < 20 else 0.5
            Image.fromarray((plate(300 + number) * light).astype("uint8")).save(file, format="PNG")
            assert served.post("/v1/models/flange/predict", file.getvalue()).status == 200
        alarm = served.get("/v1/models/flange/drift").json["drift"]["alarm"]
        page = open_served(served)
        assert page.input_value("#model") == "flange"
        wait_until(page, "document.getElementById('drift').textContent")
        assert page.text_content("#drift") == f"Note: {alarm['sentence']}."
        assert page.get_attribute("#drift", "role") == "status"
        page.select_option("#model", "screw")
        wait_until(page, "document.getElementById('drift').textContent === ''")
        judge(page, folder / "bad.png")
        assert served.get("/v1/models/screw/drift").json["drift"] is None


def test_heat_and_regions_can_be_hidden_and_verdicts_filtered(served: Served, folder: Path, open_served: Open) -> None:
    page = open_served(served)
    judge(page, folder / "bad.png", folder / "=good.png")
    bad = page.locator(".case", has_text="bad.png")
    assert bad.locator(".heat").is_visible()
    page.fill("#opacity", "0.5")
    assert bad.locator(".heat").evaluate("(it) => getComputedStyle(it).opacity") == "0.5"
    page.uncheck("#heat")
    page.uncheck("#boxes")
    assert not bad.locator(".heat").is_visible()
    assert not bad.locator("svg").is_visible()
    page.select_option("#show", "anomalous")
    assert page.evaluate(CARDS) == [["bad.png", "anomalous"]]
    page.click("#clear")
    assert not page.locator("#results").is_visible()


def test_the_table_and_the_report_are_files(served: Served, folder: Path, open_served: Open, tmp_path: Path) -> None:
    page = open_served(served)
    judge(page, folder / "bad.png", folder / "=good.png", folder / "good<b>.png")
    page.fill("#exact", "0.01")
    page.press("#exact", "Enter")
    with page.expect_download() as download:
        page.click("#csv")
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(), newline="")))
    assert [row["path"] for row in rows] == ["bad.png", "'=good.png", "good<b>.png"]
    (row,) = served.post("/v1/predict", (folder / "bad.png").read_bytes()).json["images"]
    assert float(rows[0]["image_score"]) == row["image_score"]
    assert float(rows[0]["threshold"]) == pytest.approx(row["threshold"] / 100, rel=1e-6)
    assert {row["verdict"] for row in rows} == {"anomalous"}
    with page.expect_download() as download:
        page.click("#report")
    download.value.save_as(tmp_path / "report.html")
    requests: list[str] = []
    other = page.context.new_page()
    other.on("request", lambda it: requests.append(it.url.partition(":")[0]))
    other.goto((tmp_path / "report.html").as_uri())
    assert other.locator(".case").count() == 3
    assert other.locator(".case img").evaluate_all("(all) => all.every((it) => it.naturalWidth === 64)")
    assert "good<b>.png" in (other.locator(".case").nth(1).text_content() or "") + (
        other.locator(".case").nth(2).text_content() or "")  # fmt: skip
    assert set(requests) <= {"file", "data"}


def test_a_folder_can_be_dropped(served: Served, folder: Path, open_served: Open) -> None:
    page = open_served(served, expected="400 (Bad Request)")
    content = json.dumps(list((folder / "bad.png").read_bytes()))
    page.evaluate(f"""() => {{
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array({content})], 'dropped.png'));
        const event = new DragEvent('drop', {{ dataTransfer: transfer, bubbles: true }});
        document.getElementById('drop').dispatchEvent(event);
    }}""")
    wait_until(page, "document.querySelector('.case')?.dataset.verdict === 'anomalous'")
    page.set_input_files("#folder", str(folder.parent / "line-3"))
    wait_until(page, "document.querySelectorAll('.case').length === 5")
    assert "line-3/bad.png" in [name for name, _ in page.evaluate(CARDS)]
    wait_until(page, "document.querySelector('[data-count=waiting]').textContent === '0'")


CAMERA = """navigator.mediaDevices.getUserMedia = async () => {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 64;
    const draw = () => {
        const context = canvas.getContext('2d');
        context.fillStyle = '#ffe03c';
        context.fillRect(0, 0, 64, 64);
        requestAnimationFrame(draw);
    };
    draw();
    return canvas.captureStream();
};"""


def test_a_camera_takes_pictures(served: Served, open_served: Open) -> None:
    page = open_served(served, script=CAMERA)
    page.click("#camera")
    wait_until(page, "document.getElementById('video').videoWidth === 64")
    page.click("#shoot")
    wait_until(page, "document.querySelector('.case')?.dataset.verdict === 'anomalous'")
    assert page.evaluate(CARDS) == [["camera-001.png", "anomalous"]]
    page.click("#camera-off")
    assert not page.locator("#camera-view").is_visible()
    assert page.evaluate("document.getElementById('video').srcObject === null")


def test_a_token_is_asked_for(model: Path, folder: Path, open_served: Open) -> None:
    with serving(model, token=TOKEN) as guarded:
        page = open_served(guarded, expected="401 (Unauthorized)")
        page.fill("#token", "not-the-token-at-all")
        page.press("#token", "Enter")
        wait_until(page, "document.getElementById('message').textContent.includes('not the token')")
        page.fill("#token", TOKEN)
        page.press("#token", "Enter")
        wait_until(page, "document.getElementById('model').options.length")
        assert not page.locator("#token-form").is_visible()
        judge(page, folder / "bad.png")
        assert page.evaluate(CARDS) == [["bad.png", "anomalous"]]


def test_on_a_phone_nothing_lies_beside_the_page(served: Served, folder: Path, open_served: Open) -> None:
    page = open_served(served, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    judge(page, folder / "bad.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    heights = page.evaluate(
        "[...document.querySelectorAll('button')].filter((it) => it.checkVisibility()).map((it) => it.offsetHeight)"
    )
    assert min(heights) >= 40


def test_everything_has_a_name_and_can_be_reached(served: Served, folder: Path, open_served: Open) -> None:
    page = open_served(served)
    judge(page, folder / "bad.png")
    nameless = page.evaluate("""[...document.querySelectorAll('input, select, button, img, video')]
        .filter((it) => it.type !== 'file' && !it.labels?.length)
        .filter((it) => !(it.getAttribute('aria-label') || it.alt || it.textContent.trim()))
        .map((it) => it.outerHTML)""")
    assert nameless == []
    reached = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    assert {
        "model",
        "choose",
        "choose-folder",
        "camera",
        "factor",
        "exact",
        "heat",
        "opacity",
        "csv",
        "report",
    } <= reached
