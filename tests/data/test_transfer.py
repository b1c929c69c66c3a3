"""The download of one file against a server that stalls, breaks off, refuses or forgets."""

import gzip
import io
import os
from pathlib import Path

import pytest
import requests

from dmf.data.transfer import LONGEST_WAIT, Policy, TransferError, fetch, stay_secure

from web import Site, serve

CONTENT = bytes(range(256)) * 4096  # 1 MiB, four chunks


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def policy(waits: list[float]) -> Policy:
    return Policy(attempts=3, connect=2, read=0.3, back_off=0.5, sleep=waits.append)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "downloads" / "set.zip"


@pytest.mark.parametrize(
    ("script", "ranges"),
    [
        (["whole"], [None]),
        (["half", "whole"], [None, "bytes=524288-"]),
        (["stall", "whole"], [None, "bytes=524288-"]),
        (["half", "half", "half", "half", "half", "whole"], None),
        (["half", "whole without ranges"], [None, "bytes=524288-"]),
        (["half", "misplaced", "whole"], [None, "bytes=524288-", None]),
        (["half", "416", "whole"], [None, "bytes=524288-", None]),
        (["503", "429", "whole"], [None, None, None]),
    ],
)
def test_recovers(
    script: list[str], ranges: list[str | None] | None, target: Path, policy: Policy
) -> None:
    with serve(Site(CONTENT, *script)) as site:
        fetch(site.address, target, policy=policy)
    assert target.read_bytes() == CONTENT
    assert os.listdir(target.parent) == ["set.zip"]
    if ranges:
        assert site.ranges == ranges


@pytest.mark.parametrize(
    ("act", "content", "version", "tries", "reason"),
    [
        ("404", CONTENT, None, 1, "404"),
        ("403", CONTENT, None, 1, "403"),
        ("503", CONTENT, None, 3, "503"),
        ("stall", b"x", '"v1"', 3, "in time"),
        ("half", CONTENT, None, 3, "broke off"),  # without a version, every try starts again
    ],
)
def test_gives_up_and_says_why(
    act: str,
    content: bytes,
    version: str | None,
    tries: int,
    reason: str,
    target: Path,
    policy: Policy,
) -> None:
    site = Site(content, act, version=version)
    with serve(site), pytest.raises(TransferError, match=reason):
        fetch(site.address, target, policy=policy)
    assert site.ranges == [None] * tries
    assert not target.exists()


def test_waits_longer_each_time_and_as_long_as_the_server_asks(
    target: Path, waits: list[float]
) -> None:
    policy = Policy(attempts=6, connect=2, read=2, back_off=2, sleep=waits.append)
    with serve(Site(CONTENT, "503")) as site, pytest.raises(TransferError):
        fetch(site.address, target, policy=policy)
    assert waits == [7, 7, 8, 16, 32]
    assert max(waits) <= LONGEST_WAIT


def test_continues_in_a_later_process(target: Path, policy: Policy) -> None:
    with serve(Site(CONTENT, "half", "503")) as site:
        with pytest.raises(TransferError):
            fetch(site.address, target, policy=policy)
        site.script = ["whole"]
        site.ranges.clear()
        fetch(site.address, target, policy=policy)
    assert site.ranges == ["bytes=524288-"]
    assert target.read_bytes() == CONTENT


def test_never_joins_two_versions_of_a_file(target: Path, policy: Policy) -> None:
    with serve(Site(CONTENT, "half", "503")) as site:
        with pytest.raises(TransferError):
            fetch(site.address, target, policy=policy)
        site.script, site.version = ["whole"], '"v2"'
        site.content = CONTENT[::-1]
        fetch(site.address, target, policy=policy)
    assert target.read_bytes() == CONTENT[::-1]


def test_a_part_of_another_address_is_not_continued(target: Path, policy: Policy) -> None:
    with serve(Site(CONTENT, "half", "503")) as site, pytest.raises(TransferError):
        fetch(site.address, target, policy=policy)
    with serve(Site(CONTENT[::-1])) as other:
        fetch(other.address, target, policy=policy)
    assert other.ranges == [None]
    assert target.read_bytes() == CONTENT[::-1]


def test_no_server_at_all(target: Path, policy: Policy, waits: list[float]) -> None:
    with serve(Site(CONTENT)) as site:
        address = site.address
    with pytest.raises(TransferError, match="no connection"):
        fetch(address, target, policy=policy)
    assert waits == [0.5, 1.0]


def test_a_full_disk_is_noticed_before_the_transfer(
    target: Path, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 1000})()
    monkeypatch.setattr("dmf.data.transfer.shutil.disk_usage", lambda path: usage)
    with serve(Site(CONTENT)) as site, pytest.raises(TransferError, match="1000 free"):
        fetch(site.address, target, policy=policy)
    assert not target.exists()


@pytest.mark.parametrize("length", [True, False])
def test_no_more_is_taken_than_the_limit(length: bool, target: Path) -> None:
    policy = Policy(attempts=1, connect=2, read=2, largest=100_000)
    site = Site(CONTENT, headers={} if length else {"Content-Length": "\xb2"})
    with serve(site), pytest.raises(TransferError, match="more than 100000"):
        fetch(site.address, target, policy=policy)
    part = target.with_name("set.zip.part")
    assert not target.exists()
    assert not part.exists() or part.stat().st_size == 0


def test_bytes_are_kept_as_they_are_sent(target: Path, policy: Policy) -> None:
    content = gzip.compress(CONTENT)
    site = Site(content, headers={"Content-Encoding": "gzip"})
    with serve(site):
        fetch(site.address, target, policy=policy)
    assert target.read_bytes() == content


def test_a_wait_that_is_no_number(target: Path, policy: Policy, waits: list[float]) -> None:
    site = Site(CONTENT, "503", "whole", headers={"Retry-After": "\xb2"})
    with serve(site):
        fetch(site.address, target, policy=policy)
    assert waits == [0.5]


@pytest.mark.parametrize(
    ("address", "target", "refused"),
    [
        ("https://a.org/x", "http://a.org/x", True),
        ("https://a.org/x", "ftp://a.org/x", True),
        ("https://a.org/x", "/y", False),
        ("https://a.org/x", "https://b.org/x", False),
        ("http://a.org/x", "http://b.org/x", False),
    ],
)
def test_encryption_is_not_given_up_on_the_way(address: str, target: str, refused: bool) -> None:
    class Network(requests.adapters.BaseAdapter):
        def send(self, request: requests.PreparedRequest, **_: object) -> requests.Response:
            asked.append(str(request.url))
            answer = requests.Response()
            answer.url, answer.request = str(request.url), request
            answer.status_code = 302 if request.url == address else 200
            answer.headers["Location"] = target
            answer.raw = io.BytesIO()
            return answer

        def close(self) -> None:
            pass

    asked: list[str] = []
    with requests.Session() as session:
        for scheme in ("http://", "https://", "ftp://"):
            session.mount(scheme, Network())
        if refused:
            with pytest.raises(TransferError, match="from https"):
                session.get(address, hooks={"response": stay_secure})
        else:
            session.get(address, hooks={"response": stay_secure})
    assert len(asked) == (1 if refused else 2)
