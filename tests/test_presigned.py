"""Bytes over plain HTTP: parts of files, and proxies."""

import http.server
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.storage.http import HttpClient
from fileset_integrations.storage.ranges import RangeFile

DATA = bytes(range(256)) * 600  # more than is kept of the end


@given(st.lists(st.tuples(st.integers(0, len(DATA) + 5), st.integers(-1, 70_000)), max_size=8))
def test_a_remote_file_reads_as_a_local_one(reads):
    asked = []

    def read(first: int, last: int) -> bytes:
        asked.append((first, last))
        assert 0 <= first < last <= len(DATA)
        return DATA[first:last]

    remote, local = RangeFile(read, len(DATA)), io.BytesIO(DATA)
    for place, size in reads:
        assert remote.seek(place) == local.seek(place)
        assert remote.read(size) == local.read(size)
        assert remote.tell() == local.tell()


def test_the_end_of_a_file_comes_in_one_go():
    asked = []

    def read(first: int, last: int) -> bytes:
        asked.append((first, last))
        return DATA[first:last]

    file = RangeFile(read, len(DATA))
    for back in (8, 5000, 60_000):
        file.seek(-back, io.SEEK_END)
        assert file.read(8) == DATA[len(DATA) - back :][:8]

    assert len(asked) == 1


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Host"), self.headers.get("Range")))
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
        self.close_connection = self.path.endswith("closing")  # without saying so

    def log_message(self, *args):
        """Nothing on standard error."""


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    made.seen = []
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def get(client: HttpClient, url: str, first: int = 0, last: int | None = None) -> bytes:
    with client.get(url, first, last) as response:
        return response.read()


def test_a_connection_is_kept_and_made_anew_where_the_server_closed_it(server):
    client, url = HttpClient(), f"http://127.0.0.1:{server.server_port}"

    assert [get(client, f"{url}/{name}") for name in ("a?X=1", "closing", "b", "c")] == [b"ok"] * 4

    assert [path for path, _, _ in server.seen] == ["/a?X=1", "/closing", "/b", "/c"]


def test_ranges_are_asked_for_as_http_writes_them(server):
    client, url = HttpClient(), f"http://127.0.0.1:{server.server_port}/a"

    for first, last in ((0, None), (5, None), (0, 9), (3, 4)):
        get(client, url, first, last)

    assert [span for _, _, span in server.seen] == [None, "bytes=5-", "bytes=0-9", "bytes=3-4"]


def test_a_proxy_that_the_environment_names_is_used(server, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "localhost")

    assert get(HttpClient(), "http://stage.invalid:99/dir/file?Signature=1") == b"ok"

    assert server.seen == [("http://stage.invalid:99/dir/file?Signature=1", "stage.invalid:99", None)]
