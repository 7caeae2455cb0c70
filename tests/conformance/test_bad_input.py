"""What must never happen, whatever arrives: a 500, a redirect, an answer without a reason.

One server and one database serve the whole table, for the cases do not touch each other and a
database for each would take most of the time. An exception that escapes the app fails the case.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from tests.assertions import ASSERTION_TYPE
from tests.expectations import Log, expect_error, expect_no_store
from tests.machine import Machine, basic, claims_of, new_machine
from tests.server import Server, configure, running

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
LARGEST = 65_536

#: What a refusal is called in the audit log, by the endpoint that refuses.
EVENTS = {
    "/token": "login_failure",
    "/refresh": "refresh_token_invalid",
    "/revoke": "token_invalid",
    "/introspect": "token_invalid",
}


@dataclass(frozen=True, slots=True)
class World:
    """A running server, a client of it, and the test's view of the database."""

    server: Server
    machine: Machine
    log: Log

    async def send(
        self,
        path: str,
        body: bytes,
        content_type: str | None,
        *,
        authorized: bool = False,
        method: str = "POST",
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> httpx.Response:
        """Send a body as it is, and these headers as they are."""
        sent = [(name.encode(), value) for name, value in headers]
        if content_type is not None:
            sent.append((b"Content-Type", content_type.encode()))
        if authorized:
            credentials = basic(self.machine.client_id, self.machine.client_secret)
            sent.append((b"Authorization", credentials.encode()))
        return await self.machine.http.request(method, path, content=body, headers=sent)


@pytest.fixture(scope="module")
def module_database(mongo_client: MongoClient[Any]) -> Iterator[Database[Any]]:
    """The database of this table."""
    name = f"oauth2_m2m_test_{uuid.uuid4().hex}"
    yield mongo_client[name]
    mongo_client.drop_database(name)


@pytest.fixture(scope="module")
async def module_world(
    mongo_url: str, module_database: Database[Any]
) -> AsyncIterator[tuple[Server, Machine]]:
    """The server of this table."""
    configure(module_database)
    async with (
        AsyncMongoClient[dict[str, Any]](mongo_url) as mongo,
        running(mongo[module_database.name]) as server,
    ):
        yield server, await new_machine(server, scopes=["read", "write", "introspect"])


@pytest.fixture
def world(module_world: tuple[Server, Machine], module_database: Database[Any]) -> World:
    """The server of this table, and a log that sees only what the test itself causes."""
    log = Log(module_database)
    log.new()
    return World(*module_world, log)


# --- Forms --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A body, and the answer to it."""

    name: str
    body: bytes
    content_type: str | None = FORM
    status: int = 400
    error: str = "invalid_request"

    def __str__(self) -> str:
        return self.name


GRANT = b"grant_type=client_credentials"


def unknown(name: str, body: bytes) -> Case:
    """A form that can be read, from a client that nobody knows."""
    return Case(name, body, status=401, error="invalid_client")


BAD_FORMS = [
    Case("empty", b""),
    Case("empty, no content type", b"", None),
    Case("no content type", b"username=a&password=b", None),
    Case("JSON", b'{"username": "a", "password": "b"}', JSON),
    Case("text", b"username=a&password=b", "text/plain"),
    Case("nearly the content type", b"username=a&password=b", f"{FORM}x"),
    Case("a content type with a space", b"username=a&password=b", "application / json"),
    Case("a content type of nonsense", b"username=a&password=b", ";;;="),
    Case(
        "multipart",
        b'--x\r\nContent-Disposition: form-data; name="username"\r\n\r\na\r\n--x--\r\n',
        "multipart/form-data; boundary=x",
    ),
    Case("multipart without a boundary", b"username=a", "multipart/form-data"),
    Case("XML", b"<username>a</username>", "application/xml"),
    Case("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00", FORM),
    Case("not UTF-8", b"username=\xff\xfe&password=b"),
    Case("not UTF-8 in a name", b"user\xffname=a&password=b"),
    Case("percent-encoding of what is not UTF-8", b"username=%FF&password=b"),
    Case("the same in a name", b"%C3%28=a&username=a&password=b"),
    Case("a lone surrogate", b"username=%ED%A0%80&password=b"),
    Case("an overlong spelling", b"username=%C0%AF&password=b"),
    Case("a truncated character", b"username=a&password=%E2%82"),
    Case("UTF-16", "username=a&password=b".encode("utf-16")),
    Case("only separators", b"&&&&&"),
    Case("only equals signs", b"===="),
    Case("no equals sign", b"username"),
    Case("a repeated parameter", b"username=a&username=a&password=b"),
    Case("a repeated empty parameter", b"username=&username=&password=b"),
    Case("a parameter repeated under another spelling", b"username=a&user%6eame=a&password=b"),
    Case("a repeated nameless parameter", b"=a&=b&username=a&password=b"),
    Case("101 fields", b"&".join(b"f%d=" % n for n in range(99)) + b"&username=a&password=b"),
    Case("100,000 separators", b"username=a&password=b" + b"&" * 40_000),
    Case("a parameter in brackets", b"username[$ne]=a&password[$ne]=b"),
    Case("a byte order mark", b"\xef\xbb\xbfusername=a&password=b", status=422),
    Case("; as separator", b"username=a;password=b", status=422),
    Case("a NUL before the name", b"%00username=a&password=b", status=422),
    Case("another case of the name", b"Username=a&password=b", status=422),
    Case("no value", b"username&password=b", status=422),
    Case("one byte too many", GRANT + b"&x=" + b"x" * (LARGEST - 31), status=413),
    Case("a megabyte", b"x" * 1_000_000, status=413),
    Case("a megabyte of JSON", b'"' + b"x" * 1_000_000, JSON, status=413),
    unknown("a NUL", b"username=%00&password=%00"),
    unknown("a raw NUL", b"username=\x00&password=\x00"),
    unknown("odd percent signs", b"username=%&password=%zz%4"),
    unknown("an operator", b"username=%24ne&password=%24gt"),
    unknown("a document", b'username={"$ne":1}&password={"$ne":1}'),
    unknown("beyond the BMP", b"username=%F0%9F%94%91&password=x"),
    unknown("line breaks", b"username=a%0D%0Ab&password=%0A"),
    unknown("a long id", b"username=" + b"a" * 60_000 + b"&password=b"),
    unknown("a long secret", b"username=a&password=" + b"a" * 60_000),
    unknown("a window's key", b"username=~0%3A192.0.2.1&password=b"),
    unknown("no credentials", GRANT),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_FORMS, ids=str)
async def test_a_bad_form_at_token(world: World, case: Case) -> None:
    """Every malformed form at /token is refused with a reason, and recorded as login_failure."""
    response = await world.send("/token", case.body, case.content_type)
    expect_error(response, case.status, case.error)
    (record,) = world.log.new()
    assert record["event_type"] == "login_failure"
    assert record["ip"] == "192.0.2.1"
    assert len(record["client_id"] or "") <= 128


BAD_REVOCATIONS = [
    Case("empty", b""),
    Case("not UTF-8", b"token=\xff"),
    Case("percent-encoding of what is not UTF-8", b"token=%FF"),
    Case("a lone surrogate", b"token=%ED%A0%80"),
    Case("a repeated parameter", b"token=a&token=a"),
    Case("101 fields", b"&".join(b"f%d=" % n for n in range(100)) + b"&token=a"),
    Case("only separators", b"&&&&&"),
    Case("; as separator", b"hint=x;token=a"),
    Case("a token in brackets", b"token[]=a"),
    Case("one byte too many", b"token=" + b"x" * (LARGEST - 5), status=413),
]


#: /revoke reads JSON too, in the plain dialect.
BAD_INTROSPECTIONS = [
    *BAD_REVOCATIONS,
    Case("no content type", b"token=a", None),
    Case("JSON", b'{"token": "a"}', JSON),
    Case("text", b"token=a", "text/plain"),
    Case("multipart", b"--x--", "multipart/form-data; boundary=x"),
    Case("a content type of nonsense", b"token=a", ";;;="),
    Case("a token without a value", b"token"),
    Case("an empty token", b"token=&token_type_hint=access_token"),
    Case("a hint twice", b"token=a&token_type_hint=x&token_type_hint=y"),
    Case("a megabyte", b"x" * 1_000_000, status=413),
]


@pytest.mark.parametrize(
    ("path", "case"),
    [
        pytest.param(path, case, id=f"{path} {case}")
        for path, cases in (("/revoke", BAD_REVOCATIONS), ("/introspect", BAD_INTROSPECTIONS))
        for case in cases
    ],
)
async def test_a_bad_form_at_revoke_and_introspect(world: World, path: str, case: Case) -> None:
    """Every malformed form there is refused, even of a client that proves itself."""
    response = await world.send(path, case.body, case.content_type, authorized=True)
    expect_error(response, case.status, case.error)
    (record,) = world.log.new()
    assert record["event_type"] == "token_invalid"


async def test_a_bad_form_of_who_has_an_access_token(world: World) -> None:
    """At /introspect a token with the scope proves the client: what is refused is its request."""
    token = (await world.machine.get_token("introspect")).access
    world.log.new()
    for case in BAD_INTROSPECTIONS:
        bearer = [("Authorization", f"Bearer {token}".encode())]
        response = await world.send("/introspect", case.body, case.content_type, headers=bearer)
        assert response.status_code == case.status, case
        expect_error(response, case.status, case.error)
        world.log.expect("access_denied", client_id=world.machine.client_id)


#: What is asked about, spelt for a form.
ODD_TOKENS = [
    b"%00", b"a%00b", b"%F0%9F%94%91", b"%24ne", b"{}", b'{"$ne":1}', b"[]", b"..", b"." * 60_000,
    b"a" * 60_000, b"a.b.c", b"+", b"%0A", b"%E2%80%8B", b"e30.e30.", b"e30.e30.e30",
    b"W10.W10.W10", b"eyJhbGciOiJub25lIn0.e30.", b"m2mr_", b"m2ms_" + b"a" * 49,
    b"sha256:" + b"0" * 64, b"Bearer+x", b"%CC%81", b"\xf0\x9f\x94\x91",
    base64.urlsafe_b64encode(b"[" * 12_000).rstrip(b"=") + b".e30.e30",
    base64.urlsafe_b64encode(b'{"kid":{"$ne":1},"typ":"at+jwt"}').rstrip(b"=") + b".e30.e30",
    base64.urlsafe_b64encode(b'{"kid":"%s","typ":"at+jwt"}' % (b"k" * 9_000)).rstrip(b"=")
    + b".e30.e30",
]  # fmt: skip


async def test_odd_tokens_are_not_active(world: World) -> None:
    """Whatever is asked about, the answer is that it is not active, and nobody is disturbed."""
    for token in ODD_TOKENS:
        for hint in (b"", b"&token_type_hint=" + token[:1000]):
            response = await world.send(
                "/introspect", b"token=" + token + hint, FORM, authorized=True
            )
            assert response.status_code == 200, token[:40]
            expect_no_store(response)
            assert response.json() == {"active": False}
    world.log.expect_nothing()


#: The header `Authorization`, as bytes.
ODD_CREDENTIALS = [
    [b"Bearer"], [b"Bearer "], [b"Bearer x"], [b"bearer x y"], [b"Bearer \xff\xfe"], [b"Bearer  x"],
    [b"Bearer " + b"." * 60_000], [b"Bearer a.b.c", b"Bearer a.b.c"], [b"DPoP"], [b"DPoP x"],
    [b"DPoP x, DPoP y"], [b"Bearer e30.e30.e30"], [b"Bearer \xc3\xa9.e30.e30"],
]  # fmt: skip


async def test_odd_access_tokens_introspect_nothing(world: World) -> None:
    """What stands for an access token and is none is 401 with a challenge, and recorded."""
    for values in ODD_CREDENTIALS:
        headers = [("Authorization", value) for value in values]
        response = await world.send("/introspect", b"token=a", FORM, headers=headers)
        assert response.status_code == 401, values
        assert response.json()["error"] in {"invalid_token", "invalid_dpop_proof"}
        expect_error(response, 401, response.json()["error"])
        assert response.headers["www-authenticate"].startswith(("Bearer ", "DPoP "))
        (record,) = world.log.new()
        assert record["event_type"] == "token_invalid"


# --- Resources and proofs -----------------------------------------------------------------------

#: Of a form: `resource` and `audience`.
BAD_TARGETS = [
    b"resource=x", b"resource=%00", b"resource=%23", b"resource=https://a.example/%23",
    b"resource=/", b"resource=%F0%9F%94%91", b"resource=https://%F0%9F%94%91.example",
    b"resource=" + b"a:" * 30_000,
    b"resource=https://a.example", b"resource=%24ne:1", b'resource={"$ne":1}', b"resource=*",
    b"resource=https://a.example&resource=x", b"resource=x&resource=x", b"resource=+",
    b"resource=http://localhost:8000%00", b"resource=http://localhost:8000&resource=x",
    b"resource=http://[x", b"resource=http://[::1", b"resource=javascript:alert(1)",
    b"&".join(b"resource=http://localhost:8000" for _ in range(11)), b"audience=x", b"audience=%00",
    b"audience=" + b"x" * 60_000, b"audience=http://localhost:8000/", b"audience=%F0%9F%94%91",
    b"resource=http://localhost:8000&audience=x",
]  # fmt: skip


async def test_bad_targets(world: World) -> None:
    """Whatever is asked for that may not be had is `invalid_target`, for both dialects."""
    machine = world.machine
    plain = b"username=%s&password=%s" % (
        machine.client_id.encode(),
        machine.client_secret.encode(),
    )
    for target in BAD_TARGETS:
        for start, authorized in ((GRANT, True), (plain, False)):
            body = start + b"&" + target
            response = await world.send("/token", body, FORM, authorized=authorized)
            assert response.status_code == 400, target[:60]
            expect_error(response, 400, "invalid_target")
            world.log.expect("access_denied", client_id=machine.client_id, reason="invalid_target")


#: The header `DPoP`, as bytes: what stands in it, once or twice.
BAD_PROOFS = [
    [b""], [b" "], [b"x"], [b".."], [b"a.b.c"], [b"\xff\xfe"], [b"\xc3\xa9.e30.e30"], [b"null"],
    [b"." * 60_000], [b"a" * 60_000], [b"e30.e30.e30"], [b"W10.W10.W10"], [b"x", b"x"], [b"", b""],
    [b"Bearer x"], [b"{}"], [b"%00"], [b"a,b"],
    *[
        [b".".join(base64.urlsafe_b64encode(p).rstrip(b"=") for p in (header, claims, b"x" * 64))]
        for header in (
            b'{"typ":"dpop+jwt","alg":"none","jwk":{}}',
            b'{"typ":"dpop+jwt","alg":"ES256"}',
            b'{"typ":"dpop+jwt","alg":"ES256","jwk":[]}',
            b'{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":1,"y":{}}}',
            b'{"typ":"dpop+jwt","alg":"ES256","jwk":{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}}',
            b'{"typ":"dpop+jwt","alg":"RS256","jwk":{"kty":"RSA","n":"AA","e":"AA"}}',
            b'{"typ":"dpop+jwt","alg":"RS256","jwk":{"kty":"RSA","n":"%s","e":"AQAB"}}'
            % (b"_" * 9_000),
            b'{"typ":"dpop+jwt","alg":"ES256","jwk":%s%s}' % (b"[" * 5_000, b"]" * 5_000),
            b'{"typ":"dpop+jwt","typ":"dpop+jwt","alg":"ES256","jwk":{}}',
            b'{"typ":{"$ne":1},"alg":{"$ne":1},"jwk":{"$ne":1}}',
            b"[" * 9_000,
        )
        for claims in (b"{}", b'{"htm":NaN}')
    ],
]  # fmt: skip


@pytest.mark.parametrize("path", ["/token", "/refresh"])
async def test_a_bad_proof_at_an_endpoint(world: World, path: str) -> None:
    """Whatever stands in the header is `invalid_dpop_proof`, in words that quote none of it."""
    refresh = (await world.machine.get_token()).refresh
    bodies = {
        "/token": (GRANT, FORM),
        "/refresh": (b'{"refresh_token":"%s"}' % refresh.encode(), JSON),
    }
    events = {"/token": "access_denied", "/refresh": "refresh_token_invalid"}
    world.log.new()
    for values in BAD_PROOFS:
        response = await world.send(
            path, *bodies[path], authorized=path == "/token", headers=[("DPoP", v) for v in values]
        )
        assert response.status_code == 400, values[0][:80]
        expect_error(response, 400, "invalid_dpop_proof")
        assert len(response.content) < 500
        world.log.expect(events[path], client_id=world.machine.client_id, reason="invalid_dpop")
    if path == "/refresh":
        await world.machine.refresh_plainly(refresh)


async def test_a_bad_proof_at_a_guarded_route(world: World) -> None:
    """The same there, where it comes with a token that is not even bound."""
    token = (await world.machine.get_token()).access
    world.log.new()
    for values in BAD_PROOFS:
        headers = [("Authorization", f"DPoP {token}".encode()), *(("DPoP", v) for v in values)]
        response = await world.send("/protected", b"", None, method="GET", headers=headers)
        assert response.status_code == 401, values[0][:80]
        expect_error(response, 401, response.json()["error"])
        assert response.headers["www-authenticate"].startswith(("Bearer error=", "DPoP error="))
        (record,) = world.log.new()
        assert record["event_type"] == "token_invalid"


async def test_a_proof_where_none_is_asked_for_is_ignored(world: World) -> None:
    """Revoking and introspecting as a client take no proof, and no offence at one."""
    for values in BAD_PROOFS:
        for path in ("/revoke", "/introspect"):
            response = await world.send(
                path, b"token=x", FORM, authorized=True, headers=[("DPoP", v) for v in values]
            )
            assert response.status_code == 200, values[0][:80]


def assertion(header: bytes, claims: bytes, signature: bytes = b"x" * 64) -> bytes:
    """The parameters of an assertion of these parts, whatever they are."""
    text = b".".join(base64.urlsafe_b64encode(p).rstrip(b"=") for p in (header, claims, signature))
    return b"client_assertion_type=" + ASSERTION_TYPE.encode() + b"&client_assertion=" + text


HEADER, CLAIMS = b'{"alg":"ES256"}', b'{"iss":"a","sub":"a","aud":"b","exp":9e9,"jti":"c"}'
TYPE = assertion(b"", b"").partition(b"&")[0] + b"&"

BAD_ASSERTIONS = [
    unknown("well-formed, of nobody", assertion(HEADER, CLAIMS)),
    unknown("without a type", assertion(HEADER, CLAIMS).partition(b"&")[2]),
    unknown("of an unknown type", b"client_assertion_type=x&client_assertion=x"),
    unknown("a type alone", TYPE),
    unknown("empty", TYPE + b"client_assertion="),
    unknown("a word", TYPE + b"client_assertion=x"),
    unknown("only dots", TYPE + b"client_assertion=" + b"." * 60_000),
    unknown("an endless word", TYPE + b"client_assertion=" + b"a" * 60_000),
    unknown("five parts", assertion(HEADER, CLAIMS) + b".x.x"),
    unknown("no ASCII", TYPE + b"client_assertion=%F0%9F%94%91.%F0%9F%94%91.x"),
    unknown("a NUL", TYPE + b"client_assertion=a.%00.b"),
    unknown("padding", assertion(HEADER, CLAIMS) + b"=="),
    unknown("a header that is a list", assertion(b"[]", CLAIMS)),
    unknown("a header of nothing", assertion(b"", CLAIMS)),
    unknown("a deep header", assertion(b'{"alg":' + b"[" * 5_000 + b"]" * 5_000 + b"}", CLAIMS)),
    unknown("alg none", assertion(b'{"alg":"none"}', CLAIMS, b"")),
    unknown("alg as a document", assertion(b'{"alg":{"$ne":1}}', CLAIMS)),
    unknown("kid as a document", assertion(b'{"alg":"ES256","kid":{"$ne":1}}', CLAIMS)),
    unknown("a URL to fetch", assertion(b'{"alg":"ES256","jku":"http://127.0.0.1:1/"}', CLAIMS)),
    unknown("an endless kid", assertion(b'{"alg":"ES256","kid":"%s"}' % (b"k" * 9_000), CLAIMS)),
    unknown("no signature", assertion(HEADER, CLAIMS, b"")),
    unknown("a signature of zeros", assertion(HEADER, CLAIMS, bytes(64))),
    unknown("claims that are a list", assertion(HEADER, b"[]")),
    unknown("claims that are not UTF-8", assertion(HEADER, b'{"iss":"\xff"}')),
    unknown("claims of a lone surrogate", assertion(HEADER, b'{"iss":"\\ud800"}')),
    unknown("a claim twice", assertion(HEADER, b'{"iss":"a","iss":"a","sub":"a"}')),
    unknown("NaN", assertion(HEADER, b'{"iss":"a","sub":"a","exp":NaN}')),
    unknown("an endless number", assertion(HEADER, b'{"iss":"a","exp":%s}' % (b"9" * 5_000))),
    unknown("an operator for iss", assertion(HEADER, b'{"iss":{"$ne":1},"sub":{"$ne":1}}')),
    unknown("an empty iss", assertion(HEADER, b'{"iss":"","sub":""}')),
    unknown("a window's key for iss", assertion(HEADER, b'{"iss":"~0:a:1","sub":"~0:a:1"}')),
    unknown("an endless iss", assertion(HEADER, b'{"iss":"%s"}' % (b"a" * 9_000))),
    unknown("another client_id", assertion(HEADER, CLAIMS) + b"&client_id=b"),
    unknown("in brackets", b"client_assertion[$ne]=a&client_assertion_type[$ne]=b"),
    Case("twice", assertion(HEADER, CLAIMS) + b"&client_assertion=x"),
    Case("a type twice", TYPE + assertion(HEADER, CLAIMS)),
    Case("beside a secret", assertion(HEADER, CLAIMS) + b"&client_secret=x"),
    Case("not UTF-8", TYPE + b"client_assertion=%FF"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD_ASSERTIONS, ids=str)
@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
async def test_a_bad_assertion(world: World, path: str, case: Case) -> None:
    """Whatever stands where a signature should, the client is refused, and recorded."""
    body = GRANT + b"&token=x&" + case.body
    expect_error(await world.send(path, body, FORM), case.status, case.error)
    (record,) = world.log.new()
    assert record["event_type"] == EVENTS[path]
    assert len(record["client_id"] or "") <= 128


# --- JSON ---------------------------------------------------------------------------------------

_WRONG_TYPES = {
    "a number": b"1", "a fraction": b"1.5", "true": b"true", "null": b"null", "a list": b'["a"]',
    "an object": b'{"a": "b"}', "an operator": b'{"$ne": null}', "a regular expression":
    b'{"$regex": ".*"}', "infinity in disguise": b"1e999", "minus zero": b"-0.0",
    "an endless number": b"9" * 5000,
}  # fmt: skip

BAD_JSON = [
    ("empty", b"", JSON),
    ("no content type", b'{"refresh_token": "a"}', None),
    ("text", b'{"refresh_token": "a"}', "text/plain"),
    ("another JSON", b'{"refresh_token": "a"}', "application/json-patch+json"),
    ("multipart", b"--x--", "multipart/form-data; boundary=x"),
    ("not JSON", b"hello", JSON),
    ("a form", b"refresh_token=a&access_token=a", JSON),
    ("half of it", b'{"refresh_token": "a"', JSON),
    ("more than one", b'{"refresh_token": "a"}{}', JSON),
    ("single quotes", b"{'refresh_token': 'a'}", JSON),
    ("a trailing comma", b'{"refresh_token": "a",}', JSON),
    ("a comment", b'{"refresh_token": "a"} // x', JSON),
    ("NaN", b'{"refresh_token": NaN}', JSON),
    ("NaN elsewhere", b'{"refresh_token": "a", "access_token": "a", "x": NaN}', JSON),
    ("Infinity", b'{"refresh_token": Infinity}', JSON),
    ("-Infinity", b'{"x": -Infinity}', JSON),
    ("a lone surrogate", b'{"refresh_token": "\\ud800"}', JSON),
    ("a lone surrogate of the other half", b'{"access_token": "a\\udc00b"}', JSON),
    ("a lone surrogate in a name", b'{"\\ud800": 1, "refresh_token": "a"}', JSON),
    ("a lone surrogate far inside", b'{"refresh_token": "a", "x": [{"y": "\\udfff"}]}', JSON),
    ("a raw surrogate", b'{"refresh_token": "\xed\xa0\x80"}', JSON),
    ("not UTF-8", b'{"refresh_token": "\xff"}', JSON),
    ("UTF-16", '{"refresh_token": "a"}'.encode("utf-16"), JSON),
    ("a byte order mark", b'\xef\xbb\xbf{"refresh_token": "a"}', JSON),
    ("a raw NUL", b'{"refresh_token": "\x00"}', JSON),
    ("a raw line break", b'{"refresh_token": "a\nb"}', JSON),
    ("a bad escape", b'{"refresh_token": "\\x41"}', JSON),
    ("a repeated member", b'{"refresh_token": "a", "refresh_token": "b"}', JSON),
    ("a repeated member far inside", b'{"refresh_token": "a", "x": {"y": 1, "y": 1}}', JSON),
    ("deep lists", b"[" * 30_000 + b"]" * 30_000, JSON),
    ("deep lists without end", b"[" * 60_000, JSON),
    ("deep objects", b'{"a":' * 10_000 + b"1" + b"}" * 10_000, JSON),
    ("deep in a member", b'{"refresh_token": "a", "x": ' + b"[" * 40 + b"]" * 40 + b"}", JSON),
    ("a list", b'[{"refresh_token": "a"}]', JSON),
    ("a text", b'"refresh_token"', JSON),
    ("a number", b"7", JSON),
    ("null", b"null", JSON),
    ("an empty object", b"{}", JSON),
    ("another case of the name", b'{"Refresh_Token": "a", "ACCESS_TOKEN": "a"}', JSON),
]  # fmt: skip

_JSON_CASES = [
    *((path, *case) for path in ("/refresh", "/revoke") for case in BAD_JSON),
    *(
        (path, f"{member} is {name}", b'{"%s": %s}' % (member.encode(), value), JSON)
        for path, member in (
            ("/refresh", "refresh_token"),
            ("/revoke", "refresh_token"),
            ("/revoke", "access_token"),
        )
        for name, value in _WRONG_TYPES.items()
    ),
    *(
        ("/refresh", f"scope is {name}", b'{"refresh_token": "a", "scope": %s}' % value, JSON)
        for name, value in _WRONG_TYPES.items()
        if name != "null"
    ),
    *(
        ("/refresh", f"{parameter} is {name}", b'{"refresh_token": "a", "%s": %s}' % (
            parameter.encode(), value
        ), JSON)
        for parameter in ("client_assertion", "client_assertion_type")
        for name, value in _WRONG_TYPES.items()
        if name != "null"
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "content_type"),
    [pytest.param(p, body, kind, id=f"{p} {name}") for p, name, body, kind in _JSON_CASES],
)
async def test_bad_json(world: World, path: str, body: bytes, content_type: str | None) -> None:
    """Every malformed body at /refresh and /revoke is 422 in our words, and recorded."""
    answer = expect_error(await world.send(path, body, content_type), 422, "invalid_request")
    assert "sys." not in answer["error_description"]
    world.log.expect(EVENTS[path], client_id=None, reason="invalid_request")


# --- The bounds ---------------------------------------------------------------------------------


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/token", "/refresh", "/revoke", "/introspect"])
async def test_a_body_has_64_kib(world: World, path: str, chunked: bool) -> None:
    """65,536 bytes are read, one more is 413, whether or not the length is announced."""
    machine, tokens = world.machine, await world.machine.get_token()
    start, padding, kind = {
        "/token": (GRANT + b"&padding=", b"x", FORM),
        "/refresh": (b'{"refresh_token": "%s"}' % tokens.refresh.encode(), b" ", JSON),
        "/revoke": (b'{"access_token": "%s"}' % tokens.access.encode(), b" ", JSON),
        "/introspect": (b"token=%s&padding=" % tokens.access.encode(), b"x", FORM),
    }[path]
    headers = {"Content-Type": kind}
    if kind == FORM:
        headers["Authorization"] = basic(machine.client_id, machine.client_secret)
    world.log.new()
    for length, status in ((LARGEST + 1, 413), (LARGEST, 200)):
        body = start + padding * (length - len(start))
        content = _in_pieces(body) if chunked else body
        response = await machine.http.post(path, content=content, headers=headers)
        assert ("content-length" in response.request.headers) != chunked
        if status == 413:
            expect_error(response, 413, "invalid_request")
            world.log.expect(EVENTS[path], client_id=None, reason="larger")
        else:
            assert response.status_code == status, response.text


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 1000):
        yield body[at : at + 1000]


async def test_a_form_has_a_hundred_fields(world: World) -> None:
    """100 fields are read, 101 are not."""
    for more, status in ((99, 200), (100, 400)):
        body = b"&".join([GRANT, *(b"f%d=x" % n for n in range(more))])
        response = await world.send("/token", body, FORM, authorized=True)
        assert response.status_code == status, response.text


@pytest.mark.parametrize(
    "body",
    [
        b"grant%5ftype=client%5Fcredentials&scope=%72ead",
        b"grant_type=client_credentials&scope=read+write",
        b"grant_type=client_credentials&scope=read%20write",
        b"&&grant_type=client_credentials&&",
        b"grant_type=client_credentials&%00=%00&%=%&x=%zz&\xf0\x9f\x94\x91=1&=",
        b"grant_type=client_credentials&__proto__=1&$where=1&a[b]=c",
    ],
)
async def test_an_odd_form_that_says_enough_is_read(world: World, body: bytes) -> None:
    """Oddities that change no meaning do not stop a client."""
    response = await world.send("/token", body, f"{FORM.upper()} ;charset=UTF-8", authorized=True)
    assert response.status_code == 200, response.text


# --- Methods and paths --------------------------------------------------------------------------

POSTS = ("/token", "/refresh", "/revoke", "/introspect")
PUBLISHED = (
    "/.well-known/oauth-authorization-server",
    "/.well-known/oauth-protected-resource",
    "/.well-known/jwks.json",
)
GETS = ("/health", "/health/live", "/health/ready", "/metrics", "/revocations", *PUBLISHED)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "X"]
)
async def test_another_method_is_405(world: World, path: str, method: str) -> None:
    """The token endpoints speak POST only and say so; nothing is counted or recorded."""
    query = f"{path}?username=a&password=b&grant_type=client_credentials"
    response = await world.machine.http.request(method, query)
    if method == "HEAD":  # whose answer has no body
        assert response.status_code == 405
        expect_no_store(response)
    else:
        expect_error(response, 405, "invalid_request")
    assert response.headers["allow"] == "POST"
    world.log.expect_nothing()


@pytest.mark.parametrize("path", [*POSTS, *GETS])
@pytest.mark.parametrize("ending", ["/", "//", "///", "%2F", "/%2F", "/?a=b", "//?a=b"])
async def test_a_trailing_slash_never_redirects(world: World, path: str, ending: str) -> None:
    """A slash too many is 404, whatever the Host header and the method: nobody is sent away."""
    machine = world.machine
    headers = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "Authorization": basic(machine.client_id, machine.client_secret),
    }
    form = {"grant_type": "client_credentials"}
    for method in ("POST", "GET", "PUT"):
        response = await machine.http.request(method, path + ending, data=form, headers=headers)
        assert response.status_code == 404, f"{method}: {response.headers}"
        assert "location" not in response.headers
        assert "evil" not in response.text + str(response.headers)
    world.log.expect_nothing()


@pytest.mark.parametrize("path", [*POSTS, *GETS])
async def test_a_trailing_slash_has_an_answer_like_any_error(world: World, path: str) -> None:
    """The 404 of one slash too many has the members and headers of every other error."""
    response = await world.machine.http.post(f"{path}/", headers={"Host": "evil.example"})
    expect_error(response, 404, "invalid_request")


async def test_the_host_header_decides_nothing(world: World) -> None:
    """A spoofed Host changes neither the token's issuer nor the answer."""
    usual = claims_of((await world.machine.get_token()).access)
    world.machine.http.headers["Host"] = "evil.example"
    try:
        response = await world.machine.ask_token()
    finally:
        del world.machine.http.headers["Host"]
    assert response.status_code == 200
    expect_no_store(response)
    claims = claims_of(response.json()["access_token"])
    assert (claims["iss"], claims["aud"]) == (usual["iss"], usual["aud"])


# --- What anybody may read ----------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PUBLISHED, "/revocations"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "X"])
async def test_a_published_document_is_only_read(world: World, path: str, method: str) -> None:
    """Another method is 405 and names GET."""
    response = await world.send(path, b"a=b", FORM, method=method)
    expect_error(response, 405, "invalid_request")
    assert response.headers["allow"] == "GET"
    world.log.expect_nothing()


@pytest.mark.parametrize("path", PUBLISHED)
async def test_a_published_document_is_the_same_for_everybody(world: World, path: str) -> None:
    """No header, query or body changes a byte of it, and nobody is sent elsewhere."""
    usual = await world.send(path, b"", None, method="GET")
    assert usual.status_code == 200
    assert usual.headers["cache-control"].startswith("public, max-age=")
    odd: list[tuple[str, bytes]] = [
        ("Host", b"evil.example"), ("X-Forwarded-Host", b"evil.example"), ("Accept", b"text/html"),
        ("X-Forwarded-Proto", b"https"), ("Forwarded", b"host=evil.example"), ("DPoP", b"\xff"),
        ("X-Forwarded-Prefix", b"/evil"), ("Authorization", b"Bearer \xff"),
        ("Range", b"bytes=0-1"),
        ("If-None-Match", b"\xff"), ("If-None-Match", b'"' + b"x" * 9_000), ("If-Match", b'"x"'),
        ("If-None-Match", b",,,,"), ("If-None-Match", b'W/"x", "y"'), ("Accept-Encoding", b"x"),
        ("If-Modified-Since", b"Thu, 01 Jan 2099 00:00:00 GMT"), ("Content-Type", b";;;="),
        ("Cookie", b"a=\xff"), ("X-Request-ID", b"\xff"),
    ]  # fmt: skip
    for query in ("", "?issuer=https://evil.example", "?%00=%FF&[]=[]", "?" + "a" * 9_000):
        for header in odd:
            response = await world.send(path + query, b"x", None, method="GET", headers=[header])
            assert response.status_code == 200, header
            assert response.content == usual.content
            assert "location" not in response.headers
            assert "evil" not in str(response.headers)
    world.log.expect_nothing()


async def test_a_published_document_that_is_known_is_not_sent_again(world: World) -> None:
    """RFC 9110 section 13.1.2: its ETag in any spelling of the header is 304 without a body."""
    for path in PUBLISHED:
        etag = (await world.send(path, b"", None, method="GET")).headers["etag"].encode()
        for value in (etag, b"W/" + etag, b'"x", ' + etag, b"*"):
            known = [("If-None-Match", value)]
            response = await world.send(path, b"", None, method="GET", headers=known)
            assert (response.status_code, response.content) == (304, b"")
            assert response.headers["etag"].encode() == etag


#: Of the query of /revocations.
ODD_CURSORS = [
    "after=", "after=x", "after=%00", "after=%FF", "after=%F0%9F%94%91", "after=" + "A" * 9_000,
    "after=AAAA", "after=null", "after=-1", "after=0", "after=%24ne",
    "after=AAAAAAAAAAAAAAAAAAAAAA==", "after=AAAAAAAAAAAAAAAAAAAAAB",
    "after=AAAAAAAAAAAAAAAAAAAAAA&after=AAAAAAAAAAAAAAAAAAAAAA",
]  # fmt: skip


async def test_an_odd_cursor_is_refused(world: World) -> None:
    """A cursor that the feed never gave is 400, whatever it is; others' parameters are ignored."""
    for query in ODD_CURSORS:
        response = await world.send(f"/revocations?{query}", b"", None, method="GET")
        assert response.status_code == 400, query
        expect_error(response, 400, "invalid_request")
    for cursor in (bytes(16), b"\xff" * 16, bytes(8) + b"\xff" * 8, b"\xff" * 8 + bytes(8)):
        text = base64.urlsafe_b64encode(cursor).rstrip(b"=").decode()
        response = await world.send(f"/revocations?after={text}&x=%FF", b"", None, method="GET")
        assert response.status_code == 200, text
        expect_no_store(response)
        assert response.json().keys() == {"revoked", "cursor", "more"}
