"""Requests that nobody in their right mind would send, and good ones that were tampered with."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import quote, urlencode

from hypothesis import strategies as st

from tests.attacks.model import INVALID_CLIENT, INVALID_REQUEST, OK, Answer

FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
LARGEST_BODY = 64 * 1024

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True)
class Sent:
    """A request, byte for byte.

    Attributes:
        target: path and query, as they stand in the request line.
    """

    method: str
    target: str
    headers: Headers = field(default=(), repr=False)
    body: bytes = field(default=b"", repr=False)

    def with_headers(self, *headers: tuple[bytes, bytes]) -> Sent:
        """The same, with these headers instead of its own of these names."""
        names = {name for name, _ in headers}
        kept = (header for header in self.headers if header[0] not in names)
        return replace(self, headers=(*kept, *headers))

    def with_field(self, name: str, value: str) -> Sent:
        """The same, with one more parameter in its form."""
        more = urlencode({name: value}).encode()
        return replace(self, body=self.body + b"&" * bool(self.body) + more)


# --- Requests of nonsense -----------------------------------------------------------------------

PATHS = [
    "/token", "/refresh", "/revoke", "/introspect", "/revocations", "/protected", "/admin-only",
    "/health", "/health/ready", "/.well-known/oauth-authorization-server",
    "/.well-known/jwks.json", "/.well-known/oauth-protected-resource",
]  # fmt: skip
ODD_PATHS = [
    "/", "//", "/token/", "//token", "/token//", "/token%00", "/token%2F", "/Token", "/token;a=b",
    "/%74oken", "/token/../admin-only", "/..%2f..%2fetc%2fpasswd", "/token%FF", "/%F0%9F%94%91",
    "/health/", "/health/live/x", "/.well-known/", "/.well-known/jwks.json/", "/" + "a" * 5_000,
    "/openapi.json", "/docs", "/metrics",
]  # fmt: skip
METHODS = ["GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE",
           "PROPFIND", "GET\t", "X" * 300]  # fmt: skip
QUERIES = [
    "", "", "", "?", "?a", "?after=", "?after=x", "?after=%00", "?after=%FF", "?after=1&after=2",
    "?after=" + "A" * 3_000, "?grant_type=client_credentials&grant_type=password", "?" + "&" * 999,
    "?access_token=x", "?%00=%00", "?after=%ED%A0%80", "?after=AAAAAAAAAAAAAAAA",
]  # fmt: skip
CONTENT_TYPES = [
    FORM, FORM, FORM, JSON, JSON, JSON, f"{FORM}; charset=utf-16", f"{JSON}; charset=utf-7",
    "multipart/form-data; boundary=x", "text/plain", "", ";", "application/", "*/*", "\xff\xfe",
    FORM + ";" * 2_000, "application/json, application/x-www-form-urlencoded",
]  # fmt: skip
#: Of a form, of JSON, of a header: texts that have broken something somewhere.
ODD_TEXTS = [
    "", " ", "\0", "a\0b", "\r\nSet-Cookie: a=b", "é", "中", "\U0001f511", "\u200b", "\ufeff",
    "$ne", "{'$gt': ''}", '{"$ne": null}', "null", "true", "NaN", "1e999", "-1", "..", "a.b.c",
    "e30.e30.e30", "sha256:" + "0" * 64, "m2mr_" + "a" * 49, "m2ms_" + "a" * 49, "Bearer x",
    "' OR '1'='1", "%00", "%ZZ", "../../etc/passwd", "<script>", "${jndi:x}", "~0:192.0.2.1:1",
    "a" * 5_000, "." * 5_000, "read " * 500, "\x85", "\u2028", "\x7f",
]  # fmt: skip
NAMES = [
    "grant_type", "username", "password", "client_id", "client_secret", "refresh_token", "scope",
    "access_token", "token", "token_type_hint", "resource", "audience", "client_assertion",
    "client_assertion_type", "", "$where", "__proto__", "a[]", "\0",
]  # fmt: skip
GRANTS = ["client_credentials", "refresh_token", "password", "authorization_code"]
DEEP = [depth * 16 for depth in (1, 2, 60, 400)]

odd_texts = st.one_of(st.sampled_from(ODD_TEXTS), st.sampled_from(GRANTS), st.text(max_size=40))
odd_bytes = st.one_of(st.binary(max_size=200), st.sampled_from([b"\xff" * 9, b"\xed\xa0\x80"]))


def _deep(depth: int, opening: str) -> bytes:
    closing = {"[": "]", '{"a":': "}"}[opening]
    return (opening * depth + "1" + closing * depth).encode()


def _json(members: dict[str, object]) -> bytes:
    return json.dumps(members).encode()  # a lone surrogate goes out escaped, as attackers send it


odd_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | odd_texts
    | st.sampled_from(["\ud800", "a\udfff", 10**200]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
names = st.sampled_from(NAMES)
forms = st.lists(st.tuples(names, odd_texts), max_size=6).map(lambda f: urlencode(f).encode())
broken_forms = st.lists(st.one_of(odd_bytes, st.sampled_from([b"&", b"=", b"%", b";", b"+"]))).map(
    b"".join
)
bodies = st.one_of(
    forms,
    forms,
    broken_forms,
    st.dictionaries(names, odd_values, max_size=5).map(_json),
    st.builds(_deep, st.sampled_from(DEEP), st.sampled_from(["[", '{"a":'])),
    st.sampled_from([
        b"", b"[]", b"null", b'"x"', b"{", b'{"a":1,"a":2}', b'{"refresh_token":NaN}',
        b'{"refresh_token":"\\ud800"}', b"x" * (LARGEST_BODY + 1), b"a=b&" * 101,
        b"token=" + b"x" * 50_000, b"\xef\xbb\xbf{}", '{"a":"b"}'.encode("utf-16"),
        b'{"refresh_token":1' + b"0" * 5_000 + b"}", b"\x1f\x8b\x08",
    ]),
)  # fmt: skip


def _basic(pair: bytes) -> bytes:
    return b"Basic " + base64.b64encode(pair)


credentials = st.one_of(
    st.binary(max_size=40).map(_basic),
    st.tuples(odd_texts, odd_texts).map(lambda p: _basic(f"{p[0]}:{p[1]}".encode())),
    odd_texts.map(lambda text: b"Bearer " + text.encode()),
    odd_texts.map(lambda text: b"DPoP " + text.encode()),
    st.sampled_from([
        b"", b"Basic", b"Basic ", b"Basic =", b"Basic Og==", b"Basic ====", b"Bearer",
        b"Negotiate x", b"Basic " + b"A" * 60_000, b"Bearer " + b"." * 60_000, b"Digest x", b"\xff",
    ]),
)  # fmt: skip
headers = st.lists(
    st.one_of(
        st.tuples(st.just(b"authorization"), credentials),
        st.tuples(st.just(b"dpop"), odd_texts.map(str.encode) | st.binary(max_size=60)),
        st.tuples(
            st.sampled_from([
                b"host", b"x-forwarded-for", b"forwarded", b"x-forwarded-host", b"x-request-id",
                b"user-agent", b"if-none-match", b"accept", b"origin", b"cookie",
                b"content-encoding",
                b"x-http-method-override", b"expect", b"range", b"accept-encoding",
            ]),
            odd_texts.map(str.encode) | st.binary(max_size=60),
        ),
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def nonsense(draw: st.DrawFn) -> Sent:
    """A request of which every part is made up."""
    target = draw(st.sampled_from(PATHS) | st.sampled_from(PATHS) | st.sampled_from(ODD_PATHS))
    content_type = draw(st.sampled_from(CONTENT_TYPES)).encode("latin-1")
    return Sent(
        draw(st.sampled_from(METHODS)),
        target + draw(st.sampled_from(QUERIES)),
        ((b"content-type", content_type), *draw(headers)),
        draw(bodies),
    )


# --- Good requests, tampered with ---------------------------------------------------------------

NOT_FOUND, NOT_ALLOWED = Answer(404, "invalid_request"), Answer(405, "invalid_request")
TOO_LARGE = Answer(413, "invalid_request")
#: An app's own answer, which is not ours to word.
ANY_NOT_FOUND = Answer(404)

Tampering = tuple[str, Callable[[Sent], Sent], Answer]


def _target(change: Callable[[str], str]) -> Callable[[Sent], Sent]:
    return lambda sent: replace(sent, target=change(sent.target))


def _method(method: str) -> Callable[[Sent], Sent]:
    return lambda sent: replace(sent, method=method)


def _header(name: bytes, value: bytes) -> Callable[[Sent], Sent]:
    return lambda sent: sent.with_headers((name, value))


def _twice(name: bytes) -> Callable[[Sent], Sent]:
    def change(sent: Sent) -> Sent:
        (header,) = (header for header in sent.headers if header[0] == name)
        return replace(sent, headers=(*sent.headers, header))

    return change


def _scheme(spell: Callable[[bytes], bytes]) -> Callable[[Sent], Sent]:
    def change(sent: Sent) -> Sent:
        scheme, _, value = dict(sent.headers)[b"authorization"].partition(b" ")
        return sent.with_headers((b"authorization", spell(scheme) + b" " + value))

    return change


def _body(change: Callable[[bytes], bytes]) -> Callable[[Sent], Sent]:
    return lambda sent: replace(sent, body=change(sent.body))


def _escaped(path: str) -> str:
    return "/" + "".join(f"%{ord(character):02X}" for character in path[1:])


#: Of a form with Basic credentials, to an endpoint of ours: what is done to it, and what comes of
#: it. `OK` stands for what the untouched request would get.
TAMPERINGS: list[Tampering] = [
    *[
        (f"method {m}", _method(m), NOT_ALLOWED)
        for m in ("GET", "PUT", "HEAD", "OPTIONS", "DELETE")
    ],
    ("slash", _target(lambda t: t + "/"), NOT_FOUND),
    ("slashes", _target(lambda t: t + "///"), NOT_FOUND),
    ("escaped slash", _target(lambda t: t + "%2F"), NOT_FOUND),
    ("capitals", _target(str.upper), ANY_NOT_FOUND),
    ("segment before", _target(lambda t: "/x" + t), ANY_NOT_FOUND),
    ("segment behind", _target(lambda t: t + "/x"), ANY_NOT_FOUND),
    ("NUL behind", _target(lambda t: t + "%00"), ANY_NOT_FOUND),
    ("escaped path", _target(_escaped), OK),
    ("query", _target(lambda t: t + "?scope=admin&client_id=x&token=y"), OK),
    ("query twice", _target(lambda t: t + "?grant_type=x&grant_type=y"), OK),
    ("odd query", _target(lambda t: t + "?%00&=&%ff=%ed%a0%80"), OK),
    ("JSON type", _header(b"content-type", JSON.encode()), INVALID_REQUEST),
    ("no type", _header(b"content-type", b""), INVALID_REQUEST),
    ("text type", _header(b"content-type", b"text/plain"), INVALID_REQUEST),
    ("multipart", _header(b"content-type", b"multipart/form-data; boundary=x"), INVALID_REQUEST),
    ("charset", _header(b"content-type", f"{FORM}; charset=UTF-16".encode()), OK),
    ("type in capitals", _header(b"content-type", FORM.upper().encode()), OK),
    ("credentials twice", _twice(b"authorization"), INVALID_REQUEST),
    ("lower scheme", _scheme(bytes.lower), OK),
    ("no credentials", _header(b"authorization", b""), INVALID_CLIENT),
    ("other scheme", _scheme(lambda s: b"Digest"), INVALID_CLIENT),
    ("bytes in scheme", _scheme(lambda s: b"Basic\xff"), INVALID_CLIENT),
    ("forwarded", _header(b"x-forwarded-for", b"10.0.0.1, \xff"), OK),
    ("host", _header(b"host", b"evil.example\xff"), OK),
    ("override", _header(b"x-http-method-override", b"DELETE"), OK),
    ("request id", _header(b"x-request-id", b"a\r\nb" * 30), OK),
    ("user agent", _header(b"user-agent", b"\x00\xff\r\n" * 200), OK),
    ("unknown field", lambda sent: sent.with_field("foo", "bar"), OK),
    ("odd field", lambda sent: sent.with_field("\0", "\u2028\U0001f511"), OK),
    ("empty field", lambda sent: sent.with_field("resource", ""), OK),
    ("field twice", _body(lambda b: b + b"&" + b.partition(b"&")[0]), INVALID_REQUEST),
    ("escaped twice", _body(lambda b: b + b"&%" + b"%02X" % b[0] + b[1:]), INVALID_REQUEST),
    ("not UTF-8", _body(lambda b: b + b"&a=\xff"), INVALID_REQUEST),
    ("surrogate", _body(lambda b: b + b"&a=%ED%A0%80"), INVALID_REQUEST),
    ("fields", _body(lambda b: b + b"&a=" * 101), INVALID_REQUEST),
    ("size", _body(lambda b: b + b"&a=" + b"x" * LARGEST_BODY), TOO_LARGE),
    ("two ways", lambda sent: sent.with_field("client_secret", "x"), INVALID_REQUEST),
    ("other client", lambda sent: sent.with_field("client_id", "x"), INVALID_REQUEST),
]


def with_basic(path: str, client_id: str, secret: str, **fields: str) -> Sent:
    """A form with Basic credentials."""
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()
    headers = ((b"content-type", FORM.encode()), (b"authorization", _basic(pair)))
    return Sent("POST", path, headers, urlencode(fields).encode())
