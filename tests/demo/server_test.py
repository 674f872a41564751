"""The server: types and headers that a browser asks of WebAssembly, and ports that cannot be had."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxmini.demo import server

TYPES = {
    "index.html": "text/html; charset=utf-8",
    "demo.js": "text/javascript; charset=utf-8",
    "demo.css": "text/css; charset=utf-8",
    "demo.json": "application/json",
    "a.wasm": "application/wasm",
    "a.png": "image/png",
    "a.tflite": "application/octet-stream",
}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    for name in TYPES:
        (tmp_path / name).write_text(name)
    with server.server(tmp_path, 0) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield server.address(serving)
        serving.shutdown()
        thread.join()


def test_types_and_headers(address: str):
    for name, kind in TYPES.items():
        with urllib.request.urlopen(address + name) as response:
            assert response.read() == name.encode()
            assert response.headers["Content-Type"] == kind
            assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
            assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
            assert response.headers["Cache-Control"] == "no-cache"


def test_the_page_is_the_folder_s_and_nothing_above_it(address: str, tmp_path: Path):
    with urllib.request.urlopen(address) as response:
        assert response.read() == b"index.html"
    (tmp_path.parent / "secret").write_text("secret")
    for path in ("../secret", "%2e%2e/secret", "missing.js"):
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(address + path)
        assert raised.value.code == 404
        raised.value.close()


def test_only_this_machine_is_served(address: str):
    assert address.startswith("http://127.0.0.1:")


def test_a_port_that_is_taken_names_the_remedy(tmp_path: Path):
    with server.server(tmp_path, 0) as serving:
        port = serving.server_port
        with pytest.raises(OSError, match=f"port {port} cannot be had .* --serve {port + 1}"):
            server.server(tmp_path, port)
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=f"port {port}: expected 0"):
            server.server(tmp_path, port)


def test_the_command_serves_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", interrupted)
    (tmp_path / "index.html").write_text("")
    assert server.main([str(tmp_path), "0"]) == 0
    assert "http://127.0.0.1:" in capsys.readouterr().out


def test_the_command_refuses_in_one_message(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit, match="2"):
        server.main([str(tmp_path)])
    assert "holds no page; `jaxmini demo FILE` writes one" in capsys.readouterr().err
    (tmp_path / "index.html").write_text("")
    with pytest.raises(SystemExit, match="2"):
        server.main([str(tmp_path), "70000"])
    assert "port 70000" in capsys.readouterr().err
