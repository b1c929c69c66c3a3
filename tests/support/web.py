"""A local web server that misbehaves as told."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Site:
    """One file at one address.

    `script` names what each request in turn meets; the last entry repeats: `whole`, `half` (breaks
    off in the middle), `stall` (falls silent in the middle), `whole without ranges`, `misplaced`
    (answers a range with another one), `page` (HTML instead), or a status such as `503`.
    `headers` are sent in place of the right ones.
    """

    def __init__(
        self,
        content: bytes,
        *script: str,
        version: str | None = '"v1"',
        headers: dict[str, str] | None = None,
    ) -> None:
        self.headers = {"Retry-After": "7", **(headers or {})}
        self.content = content
        self.script = list(script) or ["whole"]
        self.version = version
        self.ranges: list[str | None] = []
        self.closing = threading.Event()
        self.address = ""

    def next(self) -> str:
        """Return what the next request meets."""
        return self.script.pop(0) if len(self.script) > 1 else self.script[0]


class _Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site, act = self.site, self.site.next()
        asked = self.headers.get("Range")
        site.ranges.append(asked)
        if act.isdigit():
            self.send_response(int(act))
            self.send_header("Retry-After", site.headers["Retry-After"])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = b"<!DOCTYPE html><p>Please log in" if act == "page" else site.content
        start = 0
        unchanged = self.headers.get("If-Range") in (None, site.version)
        if asked and unchanged and act != "whole without ranges":
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            first = start + 1 if act == "misplaced" else start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if site.version:
            self.send_header("ETag", site.version)
        if "Content-Encoding" in site.headers:
            self.send_header("Content-Encoding", site.headers["Content-Encoding"])
        length = site.headers.get("Content-Length", str(len(content) - start))
        self.send_header("Content-Length", length)
        self.end_headers()
        part = content[start:]
        if act in ("half", "stall"):
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            if act == "stall":
                site.closing.wait(20)
            self.close_connection = True
            return
        self.wfile.write(part)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of 127.0.0.1; `site.address` says where."""
    handler = type("Handler", (_Handler,), {"site": site})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        site.address = f"http://127.0.0.1:{server.server_port}/set.zip"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield site
        finally:
            site.closing.set()
            server.shutdown()
            thread.join()
