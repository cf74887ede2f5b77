"""Who is let in, what browsers are told, and what other pages may not do."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from serving import Served, serving
from softpatch.deploy.serve.access import refused
from softpatch.deploy.serve.settings import ServeSettings, read_token
from softpatch.errors import InputError
from softpatch.estimator import SoftPatch

TOKEN = "a-token-of-24-characters"
OPEN = ("/", "/page/serve.js", "/page/style.css", "/v2/health/live", "/v2/health/ready")
CLOSED = ("/v2", "/v1/models", "/v2/models/flange", "/metrics", "/nothing", "/page", "/docs2", "//")


@pytest.fixture(scope="module")
def model(fitted: SoftPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "flange.safetensors"
    fitted.save(path)
    return path


@pytest.fixture(scope="module")
def guarded(model: Path) -> Iterator[Served]:
    with serving(model, token=TOKEN) as served:
        yield served


@pytest.fixture(scope="module")
def served(model: Path) -> Iterator[Served]:
    with serving(model) as served:
        yield served


def test_only_who_bears_the_token_is_answered(guarded: Served) -> None:
    for path in OPEN:
        assert guarded.get(path).status == 200, path
    for path in CLOSED:
        answer = guarded.get(path)
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer"), path
        assert guarded.get(path, Authorization=f"Bearer {TOKEN}").status in (200, 404), path
    for wrong in ("", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer ", f"Bearer {TOKEN[:-1]}", "Bearer \xe9"):
        assert guarded.get("/v1/models", Authorization=wrong).status == 401, wrong
    assert guarded.get("/v1/models", authorization=f"bearer {TOKEN}").status == 200
    assert guarded.post("/v2/models/flange/infer", b"{}").status == 401
    assert TOKEN not in repr(guarded.service.settings)


def test_only_names_of_this_computer_are_answered(served: Served) -> None:
    port = served.place.rpartition(":")[2]
    for host in ("localhost", f"localhost:{port}", "127.0.0.1", f"[::1]:{port}", "[::1]", f"LOCALHOST:{port}"):
        assert served.get("/v2", Host=host).status == 200, host
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", "::1", ""):
        answer = served.get("/v2", Host=host)
        assert answer.status == 421, host
        assert "evil" not in answer.error


def test_a_server_for_others_answers_to_any_name_with_its_token() -> None:
    settings = ServeSettings((), host="0.0.0.0", token=TOKEN)
    headers = {"host": "line-3.example", "authorization": f"Bearer {TOKEN}"}
    assert refused(Headers(headers), "/v2", "GET", settings) is None
    assert refused(Headers({"host": "line-3.example"}), "/v2", "GET", settings) is not None


@pytest.mark.parametrize(("site", "status"), [("cross-site", 403), ("same-site", 403), ("same-origin", 400)])
def test_pages_of_others_send_nothing(served: Served, site: str, status: int) -> None:
    assert served.post("/v1/predict", b"x", Sec_Fetch_Site=site).status == status


def test_what_browsers_are_told(served: Served) -> None:
    for path in ("/", "/v2", "/nothing", "/page/serve.js"):
        headers = served.get(path, Origin="https://evil.example").headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers
    assert served.ask("OPTIONS", "/v1/predict", Origin="https://evil.example").status == 405


def test_no_page_loads_anything_from_elsewhere(served: Served) -> None:
    assert served.get("/redoc").status == served.get("/docs/none.js").status == 404
    assert "/v1/models/{name}/predict" in served.get("/openapi.json").json["paths"]
    for path in ("/", "/docs", "/page/serve.js", "/page/serve_report.js", "/page/serve.css"):
        text = served.get(path).body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text
        assert "https://" not in text
    assert served.get("/page/..%2f..%2fconfig.py").status == 404
    assert served.get("/page/audit.js").status == 404


def test_a_host_for_others_needs_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.168.0.7"):
        with pytest.raises(InputError, match="lets other computers in; give `token_file`"):
            ServeSettings((), host=host)
        assert not ServeSettings((), host=host, insecure=True).is_loopback
        assert not ServeSettings((), host=host, token=TOKEN).is_loopback
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.5"):
        assert ServeSettings((), host=host).is_loopback
    with pytest.raises(InputError, match=r"`host` is 'example\.com'; it must be localhost or an address"):
        ServeSettings((), host="example.com")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"port": 65536}, "`port` is 65536"),
        ({"port": -1}, "`port` is -1"),
        ({"loaded": 0}, "`loaded` is 0"),
        ({"max_in_flight": 0}, "`max_in_flight` is 0"),
        ({"max_request_mb": -5}, "`max_request_mb` is -5"),
        ({"timeout": 0}, "`timeout` is 0; it must be a number of seconds from 0.1"),
        ({"timeout": float("inf")}, "`timeout` is inf"),
        ({"batch_wait": float("nan")}, "`batch_wait` is nan"),
        ({"drain": -1}, "`drain` is -1"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        ServeSettings((), **values)  # type: ignore[arg-type]


def test_tokens_are_read(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert read_token(path, {}) == read_token(None, {"SOFTPATCH_TOKEN": TOKEN}) == TOKEN
    assert read_token(None, {}) is None
    for content in (
        b"",
        b"short",
        b"two words of a token here",
        b"\xff\xfe" * 20,
        b"x" * 1001,
        b"first-line-of-two\nsecond",
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a token is one word of 16 to 1000 plain characters"):
            read_token(path, {"SOFTPATCH_TOKEN": TOKEN})
    with pytest.raises(InputError, match="the variable SOFTPATCH_TOKEN holds 0 characters"):
        read_token(None, {"SOFTPATCH_TOKEN": ""})
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path, {})
