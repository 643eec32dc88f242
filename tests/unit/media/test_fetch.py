"""The fetcher reaches the public internet alone, whatever a request names; a server of this machine stands for it here."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aihub.core.settings import Settings
from aihub.media.addresses import is_public
from aihub.media.fetch import RemoteMediaError, RemoteMediaFetcher, Resolve, resolve_host
from tests.unit.media.media_files import image

PICTURE = image()
LOOPBACK = ipaddress.ip_address("127.0.0.1")
PUBLIC = ipaddress.ip_address("93.184.216.34")


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3",  # noqa: S104 - an address to refuse, not one to listen on
        "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1",
        "127.255.255.255", "169.254.0.1", "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1",
        "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1", "fc00::1", "fd00:ec2::254", "fdff::1", "ff02::1", "ff0e::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:7f00:1", "::127.0.0.1", "::10.0.0.1",
        "2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::1", "2002:5db8:d822::1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b::c0a8:101", "64:ff9b:1::5db8:d822",
        "2001::1", "2001:0:5ef5:79fd:0:59d:a0e5:ba1", "2001:10::1", "2001:20::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        "2a00::5efe:7f00:1", "2a00::200:5efe:a00:1",
    ],
)  # fmt: skip
def test_addresses_of_this_network_and_of_none_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "8.8.8.8", "93.184.216.34", "172.15.255.255", "172.32.0.1", "192.167.1.1", "100.63.255.255", "100.128.0.1",
     "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808"],
)  # fmt: skip
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


def test_an_address_of_this_machine_is_not_public_wherever_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of the internet has a public one; here `bind` says so."""
    bound: list[Any] = []

    class Own:
        def __init__(self, *_arguments: object) -> None:
            pass

        def __enter__(self) -> "Own":
            return self

        def __exit__(self, *_arguments: object) -> None:
            pass

        def bind(self, address: tuple[str, int]) -> None:
            bound.append(address)

    monkeypatch.setattr(socket, "socket", Own)
    assert not is_public(PUBLIC)
    assert bound == [("93.184.216.34", 0)]


class Web:
    """A server of this machine and a fetcher that takes it for public, by the name `images.example.org`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.requests: list[str] = []
        self.answers: dict[str, Callable[[asyncio.StreamWriter], Any]] = {}
        self.resolved: list[str] = []

    def url(self, path: str = "/", host: str = "images.example.org", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    async def resolve(self, host: str, _port: int) -> list[Any]:
        self.resolved.append(host)
        if host == "unknown.example.org":
            raise socket.gaierror("no such name")
        return [LOOPBACK]

    def fetcher(self, *hosts: str, **options: Any) -> RemoteMediaFetcher:
        given: dict[str, Any] = {
            "resolve": self.resolve,
            "is_allowed": LOOPBACK.__eq__,
            "is_port_allowed": lambda _port: True,
            "timeout_s": 5.0,
        }
        return RemoteMediaFetcher(hosts or ("*",), **(given | options))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(request)
        try:
            await self.answers[request.split()[1]](writer)
        finally:
            writer.close()

    def answer(self, path: str, status: int = 200, body: bytes = PICTURE, **headers: str) -> None:
        async def send(writer: asyncio.StreamWriter) -> None:
            lines = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            writer.write(f"HTTP/1.1 {status} x\r\n{head}\r\n".encode() + body)
            await writer.drain()

        self.answers[path] = send


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    web = Web(0)
    server = await asyncio.start_server(web.serve, "127.0.0.1", 0, ssl=tls)
    web.port = server.sockets[0].getsockname()[1]
    async with server:
        yield web


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with serving() as web:
        web.answer("/")
        yield web


async def failure_of(fetcher: RemoteMediaFetcher, url: str, max_bytes: int = 10**6) -> str:
    with pytest.raises(RemoteMediaError) as caught:
        await fetcher.fetch(url, max_bytes=max_bytes)
    assert caught.value.status == 400
    assert "127.0.0.1" in url or "127.0.0.1" not in caught.value.message  # what a name stands for stays with the hub
    return caught.value.code


async def test_a_file_is_fetched_and_nothing_of_the_hub_is_told(web: Web) -> None:
    assert await web.fetcher().fetch(web.url(), max_bytes=10**6) == PICTURE
    (request,) = web.requests
    assert f"host: images.example.org:{web.port}" in request.lower()
    assert not any(name in request.lower() for name in ("cookie", "authorization", "referer", "python"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "ftp://images.example.org/a.png", "gopher://images.example.org/", "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "//images.example.org/a.png", "images.example.org/a.png", "http://", "http:///a.png", "", "http://[::1",
        "http://user@images.example.org/", "http://user:secret@images.example.org/", "http://:@images.example.org/",
        "http://images.example.org:70000/", "http://images.example.org:0/", "http://exa mple.org/", "http://a..b/",
        "http://images.example.org\r\nX: y/", "unix:///var/run/docker.sock",
    ],
)  # fmt: skip
async def test_what_is_no_plain_web_address_is_refused(url: str, web: Web) -> None:
    assert await failure_of(web.fetcher(), url) == "remote_media_refused"
    assert web.requests == []


async def read_numbers(host: str, _port: int) -> list[Any]:
    """What systems make of hosts that are written as numbers."""
    bare = host.strip("[]")
    return [ipaddress.ip_address(bare if ":" in bare else socket.inet_ntoa(socket.inet_aton(bare)))]


@pytest.mark.parametrize(
    ("host", "resolve"),
    [(host, resolve_host) for host in ("localhost", "127.0.0.1", "127.0.0.1.", "[::1]")]
    + [
        (host, read_numbers)
        for host in ("127.1", "0x7f.1", "2130706433", "0177.0.0.1", "0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]")
    ],
)
async def test_this_machine_is_refused_however_it_is_written(host: str, resolve: Resolve, web: Web) -> None:
    fetcher = RemoteMediaFetcher(("*",), resolve=resolve, is_port_allowed=lambda _port: True)
    assert await failure_of(fetcher, web.url(host=host)) == "remote_media_refused"
    assert web.requests == []


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["::ffff:169.254.169.254"], []]
)
async def test_a_name_with_one_address_of_this_network_is_refused(addresses: list[str], web: Web) -> None:
    async def resolve(_host: str, _port: int) -> list[Any]:
        return [ipaddress.ip_address(address) for address in addresses]

    assert await failure_of(web.fetcher(resolve=resolve, is_allowed=is_public), web.url()) == "remote_media_refused"
    assert web.requests == []


async def test_a_name_that_changes_its_address_after_the_check_is_asked_where_it_was_checked(web: Web) -> None:
    answers = [[LOOPBACK], [ipaddress.ip_address("127.0.0.2")]]

    async def resolve(_host: str, _port: int) -> list[Any]:
        return answers.pop(0)

    assert await web.fetcher(resolve=resolve).fetch(web.url(), max_bytes=10**6) == PICTURE
    assert len(answers) == 1


async def test_redirects_are_followed_and_each_is_checked(web: Web) -> None:
    web.answer("/a", 302, b"", Location="/b", Set_Cookie="session=1")
    web.answer("/b", 301, b"", Location=web.url("/c", host="other.example.org"))
    web.answer("/c", 307, b"", Location=web.url("/"))
    assert await web.fetcher().fetch(web.url("/a"), max_bytes=10**6) == PICTURE
    assert web.resolved == ["images.example.org", "images.example.org", "other.example.org", "images.example.org"]
    assert not any("cookie" in request.lower() for request in web.requests)


@pytest.mark.parametrize(
    "location",
    ["http://10.0.0.1/", "file:///etc/passwd", "http://user:pw@images.example.org/", "ftp://x/",
     "http://other.example.org/", "//[::1]/"],
)  # fmt: skip
async def test_a_redirect_to_what_is_refused_is_refused(location: str, web: Web) -> None:
    async def resolve(host: str, _port: int) -> list[Any]:
        return [LOOPBACK if host == "images.example.org" else ipaddress.ip_address("10.0.0.1")]

    web.answer("/a", 302, b"", Location=location)
    assert await failure_of(web.fetcher(resolve=resolve), web.url("/a")) == "remote_media_refused"
    assert len(web.requests) == 1


async def test_redirects_in_a_ring_come_to_an_end(web: Web) -> None:
    web.answer("/a", 302, b"", Location="/a")
    assert await failure_of(web.fetcher(), web.url("/a")) == "remote_media_failed"
    assert len(web.requests) == 4


async def test_only_hosts_that_are_listed_are_asked(web: Web) -> None:
    for pattern in ("images.example.org", "*.example.org", "*"):
        assert await web.fetcher(pattern).fetch(web.url(), max_bytes=10**6) == PICTURE
    for pattern in ("example.org", "*.images.example.org", "ages.example.org", "*.org.evil"):
        assert await failure_of(web.fetcher(pattern), web.url()) == "remote_media_refused"
    web.answer("/away", 302, b"", Location=web.url("/", host="images.example.com"))
    assert await failure_of(web.fetcher("images.example.org"), web.url("/away")) == "remote_media_refused"


async def test_only_the_usual_ports_are_asked(web: Web) -> None:
    fetcher = RemoteMediaFetcher(("*",), resolve=web.resolve, is_allowed=LOOPBACK.__eq__)
    for port in (22, 25, 6379, 8265, web.port):
        assert await failure_of(fetcher, f"http://images.example.org:{port}/") == "remote_media_refused"
    assert web.resolved == []


async def test_a_file_is_read_up_to_its_limit_whatever_its_header_says(web: Web) -> None:
    web.answer("/long", body=bytes(5_000))
    web.answer("/lies", body=bytes(5_000), Content_Length="99999999999")

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"400\r\n" + bytes(1_024) + b"\r\n")
            await writer.drain()

    web.answers["/endless"] = endless
    for path in ("/long", "/lies", "/endless"):
        assert await failure_of(web.fetcher(), web.url(path), max_bytes=4_999) == "media_too_large"
    assert await web.fetcher().fetch(web.url("/long"), max_bytes=5_000) == bytes(5_000)


async def test_compressed_answers_are_not_unpacked(web: Web) -> None:
    web.answer("/gzip", body=b"\x1f\x8b" + bytes(99), Content_Encoding="gzip")
    assert await failure_of(web.fetcher(), web.url("/gzip")) == "remote_media_failed"


@pytest.mark.parametrize("status", [204, 206, 304, 401, 403, 404, 500, 503])
async def test_other_statuses_are_failures(status: int, web: Web) -> None:
    web.answer("/", status, b"")
    assert await failure_of(web.fetcher(), web.url()) == "remote_media_failed"


async def test_a_server_that_is_slow_silent_or_gone_costs_its_time_alone(web: Web) -> None:
    async def silent(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def dripping(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async def rude(writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")

    async def short(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\nabc")

    web.answers |= {"/silent": silent, "/dripping": dripping, "/rude": rude, "/short": short}
    start = time.monotonic()
    for path in web.answers:
        if path != "/":
            assert await failure_of(web.fetcher(timeout_s=0.3), web.url(path)) == "remote_media_failed"
    assert time.monotonic() - start < 3
    assert await failure_of(web.fetcher(), web.url(host="unknown.example.org")) == "remote_media_failed"
    assert await web.fetcher().fetch(web.url(), max_bytes=10**6) == PICTURE


async def test_the_next_address_is_tried_where_one_is_not_reached(web: Web) -> None:
    async def resolve(_host: str, _port: int) -> list[Any]:
        return [ipaddress.ip_address("127.0.0.9"), LOOPBACK]

    fetcher = web.fetcher(resolve=resolve, is_allowed=lambda _address: True)
    assert await fetcher.fetch(web.url(), max_bytes=10**6) == PICTURE


async def test_proxies_of_the_environment_are_left_alone(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert httpx.AsyncClient(trust_env=True)._mounts  # the variables count where they are asked
        assert await web.fetcher().fetch(web.url(), max_bytes=10**6) == PICTURE
        assert proxy.requests == []


def certified(name: str) -> tuple[bytes, bytes]:
    """A certificate that vouches for itself, and its key, in PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem), plain


async def test_certificates_are_checked_against_the_name_that_was_asked_for(tmp_path: Path) -> None:
    certificate, key = certified("images.example.org")
    (tmp_path / "both.pem").write_bytes(certificate + key)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(tmp_path / "both.pem")
    trusting = ssl.create_default_context(cadata=certificate.decode())
    async with serving(server_tls) as web:
        web.answer("/")
        assert await web.fetcher(tls=trusting).fetch(web.url(scheme="https"), max_bytes=10**6) == PICTURE
        assert (
            await failure_of(web.fetcher(tls=trusting), web.url(scheme="https", host="other.example.org"))
            == "remote_media_failed"
        )
        assert await failure_of(web.fetcher(), web.url(scheme="https")) == "remote_media_failed"
        web.answer("/down", 302, b"", Location="http://images.example.org/")
        assert await failure_of(web.fetcher(tls=trusting), web.url("/down", scheme="https")) == "remote_media_refused"
        assert len(web.requests) == 2


async def test_cancelling_ends_the_connection(web: Web) -> None:
    left = asyncio.Event()

    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 1000\r\n\r\n")
        await writer.drain()
        while not writer.is_closing():
            writer.write(b"x")
            try:
                await writer.drain()
            except ConnectionError:
                break
            await asyncio.sleep(0.01)
        left.set()

    web.answers["/silent"] = silent
    task = asyncio.create_task(web.fetcher().fetch(web.url("/silent"), max_bytes=10**6))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(left.wait(), 5)


def test_hosts_come_from_the_environment_and_none_is_asked_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().remote_media_hosts == ()
    monkeypatch.setenv("AIHUB_REMOTE_MEDIA_HOSTS", "Images.example.org, *.máy.vn")
    assert Settings().remote_media_hosts == ("images.example.org", "*.xn--my-mia.vn")
