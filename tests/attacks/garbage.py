"""Requests that nobody in their right mind would send, and good ones that were tampered with."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any
from urllib.parse import quote, urlencode

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
HEADER_NAMES = [
    b"host", b"x-forwarded-for", b"forwarded", b"x-forwarded-host", b"x-request-id", b"user-agent",
    b"if-none-match", b"accept", b"origin", b"content-encoding", b"cookie", b"expect", b"range",
    b"x-http-method-override", b"accept-encoding", b"dpop", b"dpop", b"authorization",
]  # fmt: skip
ODD_BODIES = [
    b"", b"[]", b"null", b'"x"', b"{", b'{"a":1,"a":2}', b'{"refresh_token":NaN}',
    b'{"refresh_token":"\\ud800"}', b"x" * (LARGEST_BODY + 1), b"a=b&" * 101,
    b"token=" + b"x" * 50_000, b"\xef\xbb\xbf{}", '{"a":"b"}'.encode("utf-16"), b"\x1f\x8b\x08",
    b'{"refresh_token":1' + b"0" * 5_000 + b"}", b"token=\xff", b"token=\xed\xa0\x80",
    *[opening * depth + b"1" + closing * depth for depth in (16, 17, 900, 6_000)
      for opening, closing in ((b"[", b"]"), (b'{"a":', b"}"))],
]  # fmt: skip
ODD_CREDENTIALS = [
    b"", b"Basic", b"Basic ", b"Basic =", b"Basic Og==", b"Basic ====", b"Bearer", b"Negotiate x",
    b"Basic " + b"A" * 60_000, b"Bearer " + b"." * 60_000, b"Digest x", b"\xff",
]  # fmt: skip
DEEPEST_VALUE, MOST_OF_ANYTHING, LONGEST_TEXT = 3, 5, 40


def nonsense(dice: Random) -> Sent:
    """A request of which every part is made up."""
    target = dice.choice(PATHS if dice.random() < 0.75 else ODD_PATHS) + dice.choice(QUERIES)
    content_type = dice.choice(CONTENT_TYPES).encode("latin-1")
    odd_headers = [_odd_header(dice) for _ in range(dice.randrange(MOST_OF_ANYTHING))]
    headers = ((b"content-type", content_type), *odd_headers)
    return Sent(dice.choice(METHODS), target, headers, _odd_body(dice))


def _odd_text(dice: Random) -> str:
    match dice.randrange(4):
        case 0:
            return dice.choice(GRANTS)
        case 1:
            points = (dice.randrange(dice.choice([0x80, 0xD800])) for _ in range(LONGEST_TEXT))
            return "".join(map(chr, points))[: dice.randrange(LONGEST_TEXT)]
    return dice.choice(ODD_TEXTS)


def _odd_value(dice: Random, depth: int = DEEPEST_VALUE) -> Any:
    some = range(dice.randrange(MOST_OF_ANYTHING))
    match dice.randrange(8 if depth else 6):
        case 0:
            return dice.choice([None, True, False, 0, -1, 1e300, 10**200, 0.1])
        case 1:
            return dice.choice(["\ud800", "a\udfff"])
        case 6:
            return [_odd_value(dice, depth - 1) for _ in some]
        case 7:
            return {_odd_text(dice): _odd_value(dice, depth - 1) for _ in some}
    return _odd_text(dice)


def _odd_body(dice: Random) -> bytes:
    some = range(dice.randrange(MOST_OF_ANYTHING))
    match dice.randrange(4):
        case 0:
            return urlencode([(dice.choice(NAMES), _odd_text(dice)) for _ in some]).encode()
        case 1:
            # A lone surrogate goes out escaped, as attackers send it.
            return json.dumps({dice.choice(NAMES): _odd_value(dice) for _ in some}).encode()
        case 2:
            return b"&".join(
                dice.choice(NAMES).encode() + b"=" + dice.randbytes(dice.randrange(LONGEST_TEXT))
                for _ in some
            )
    return dice.choice(ODD_BODIES)


def _odd_header(dice: Random) -> tuple[bytes, bytes]:
    name = dice.choice(HEADER_NAMES)
    if name == b"authorization":
        return name, _odd_credentials(dice)
    return name, dice.choice([_odd_text(dice).encode(), dice.randbytes(LONGEST_TEXT)])


def _odd_credentials(dice: Random) -> bytes:
    match dice.randrange(4):
        case 0:
            return _basic(dice.randbytes(dice.randrange(LONGEST_TEXT)))
        case 1:
            return _basic(f"{_odd_text(dice)}:{_odd_text(dice)}".encode())
        case 2:
            return dice.choice([b"Bearer ", b"DPoP "]) + _odd_text(dice).encode()
    return dice.choice(ODD_CREDENTIALS)


def _basic(pair: bytes) -> bytes:
    return b"Basic " + base64.b64encode(pair)


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


#: Those that make it no form.
OTHER_TYPES = {"JSON type", "no type", "text type", "multipart"}


def with_basic(path: str, client_id: str, secret: str, **fields: str) -> Sent:
    """A form with Basic credentials."""
    pair = f"{quote(client_id, safe='')}:{quote(secret, safe='')}".encode()
    headers = ((b"content-type", FORM.encode()), (b"authorization", _basic(pair)))
    return Sent("POST", path, headers, urlencode(fields).encode())
