"""Server: a demo's folder over HTTP on this machine, with the types and headers that WebAssembly asks for."""

import argparse
import errno
import functools
import http.server
import sys
from collections.abc import Sequence
from pathlib import Path

HOST, PORT = "127.0.0.1", 8000


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files as browsers want modules and WebAssembly; says nothing of each request."""

    # Written out: what the system believes of suffixes differs, and a wrong type stops a module.
    extensions_map = {  # noqa: RUF012 (that of the base class)
        "": "application/octet-stream",
        ".html": "text/html; charset=utf-8",
        ".css": "text/css; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".txt": "text/plain; charset=utf-8",
        ".png": "image/png",
        ".wasm": "application/wasm",
    }

    def end_headers(self) -> None:
        # These two isolate the page, without which a browser gives it no threads.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def server(
    folder: Path, port: int = PORT, handler: type[Handler] = Handler
) -> http.server.ThreadingHTTPServer:
    """A server of the folder, which this machine alone reaches; ``serve_forever`` runs it.

    Args:
        folder: to serve.
        port: 0 = any that is free.
        handler: what answers.

    Raises:
        ValueError: there is no such port.
        OSError: the port is taken.
    """
    if not 0 <= port <= 65535:
        raise ValueError(f"port {port}: expected 0 (any free one) to 65535")
    try:
        return http.server.ThreadingHTTPServer(
            (HOST, port), functools.partial(handler, directory=str(folder))
        )
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise OSError(
            f"port {port} cannot be had ({error.strerror}); give another one: --serve {port + 1}, "
            "or --serve 0 for any that is free"
        ) from error


def address(serving: http.server.ThreadingHTTPServer) -> str:
    """Where a browser on this machine finds the page."""
    return f"http://{HOST}:{serving.server_port}/"


def serve(folder: Path, port: int = PORT) -> int:
    """Serve a folder until Ctrl-C; an exit code.

    Raises:
        ValueError, OSError: as ``server``.
    """
    with server(folder, port) as serving:
        print(f"{address(serving)} (Ctrl-C ends it)", flush=True)
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            print()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a folder that ``jaxmini demo`` wrote; an exit code."""
    parser = argparse.ArgumentParser(prog="python -m jaxmini.demo.server", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int, nargs="?", default=PORT)
    options = parser.parse_args(arguments)
    if not (options.folder / "index.html").is_file():
        parser.error(f"{options.folder} holds no page; `jaxmini demo FILE` writes one")
    try:
        return serve(options.folder, options.port)
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
