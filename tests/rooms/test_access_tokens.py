"""The strict reader of access tokens: what is good is read, and nothing else ever is."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from _oauth2_m2m.access_tokens import check_audience, read_access_token, sign_access_token
from _oauth2_m2m.client_documents import LONGEST_TYPED_ID
from _oauth2_m2m.compact_tokens import LONGEST_TOKEN
from _oauth2_m2m.config import Secret, Settings, settings_from
from _oauth2_m2m.errors import InvalidToken
from _oauth2_m2m.hooks import LARGEST_CLAIMS_BYTES, ClaimsRefused, checked_claims
from _oauth2_m2m.key_ring import KeyRing, build_ring
from _oauth2_m2m.key_sealing import KeySealer
from _oauth2_m2m.resources import MOST_RESOURCES
from _oauth2_m2m.roles import LONGEST_ROLE

NOW = datetime(2030, 1, 2, 3, 4, 5, 600_000, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
MINUTE = timedelta(minutes=1)
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def ring_for(by: Settings) -> KeyRing:
    """The keys of these settings; shared secrets alone, so without a database."""
    return build_ring(by, [], KeySealer(), NOW)


SETTINGS = settings_from({
    "SECRET_KEY": "a-secret-key-of-the-reader-with-more-than-32-bytes",
    "ISSUER": "https://auth.example.com",
    "AUDIENCE": "https://api.example.com",
})  # fmt: skip
RING = ring_for(SETTINGS)
MISSING = ...


def b64(data: bytes) -> str:
    """base64url by the book, made apart from the code under test."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def hs256(message: str, key: str = SETTINGS.secret_key.value) -> bytes:
    """HMAC with the standard library."""
    return hmac.digest(key.encode(), message.encode("utf-8", "surrogatepass"), hashlib.sha256)


def header(**changes: Any) -> dict[str, Any]:
    return _changed({"typ": "at+jwt", "alg": "HS256", "kid": RING.signing.kid}, changes)


def claims(**changes: Any) -> dict[str, Any]:
    return _changed(
        {
            "iss": SETTINGS.issuer,
            "sub": "reporter",
            "client_id": "reporter",
            "aud": SETTINGS.audience,
            "iat": ISSUED,
            "exp": ISSUED + 60,
            "jti": "the-id-of-the-token",
            "scope": "read write",
            "roles": ["user"],
        },
        changes,
    )


def _changed(members: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**members, **changes}.items() if value is not MISSING}


def signed(
    head: Mapping[str, Any] | bytes | None = None,
    body: Mapping[str, Any] | bytes | None = None,
    *,
    key: str = SETTINGS.secret_key.value,
) -> str:
    """A token with the right signature over whatever stands in it."""
    parts = [header() if head is None else head, claims() if body is None else body]
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in parts]
    message = f"{b64(raw[0])}.{b64(raw[1])}"
    return f"{message}.{b64(hs256(message, key))}"


def read(text: str, *, now: datetime = NOW, by: Settings = SETTINGS) -> Any:
    token = read_access_token(
        text, issuer=by.issuer, keys=RING.verifying, now=now, leeway=by.leeway
    )
    check_audience(token, by.audience)
    return token


def refuse(text: str, *, now: datetime = NOW, by: Settings = SETTINGS) -> str:
    """The reason of the refusal, which must be one."""
    with pytest.raises(InvalidToken) as refusal:
        read(text, now=now, by=by)
    assert refusal.value.description == InvalidToken.default
    return refusal.value.detail


VALID = signed()


# What is good


def test_what_we_sign_we_read() -> None:
    """Everything that goes into a token comes out of it again."""
    token = sign_access_token(
        settings=SETTINGS,
        keys=RING,
        now=NOW,
        client_id="reporter",
        scope=frozenset({"write", "read"}),
        roles=["user", "admin"],
        lifetime=MINUTE,
        epoch="epoch-of-8",
        family_id="a-family",
    )
    found = read(token.text)
    assert (token.lifetime, found.jti) == (MINUTE, token.jti)
    assert found.client_id == "reporter"
    assert found.scopes == {"read", "write"}
    assert found.roles == ("admin", "user")
    assert found.issued_at == NOW.replace(microsecond=0)
    assert found.expires_at - found.issued_at == MINUTE
    assert (found.epoch, found.family_id) == ("epoch-of-8", "a-family")
    assert found.claims["scope"] == "read write"
    with pytest.raises(TypeError):
        found.claims["scope"] = "admin"


def test_what_we_sign_is_of_the_rfc_9068_profile() -> None:
    """Header and claims are those of RFC 9068 section 2, signed with the key's own bytes."""
    text = sign_access_token(
        settings=SETTINGS,
        keys=RING,
        now=NOW,
        client_id="reporter",
        scope=frozenset({"read"}),
        roles=["user"],
        lifetime=MINUTE,
    ).text
    head, body, signature = text.split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(part + "==")) for part in (head, body)]
    assert decoded[0] == header()
    jti = decoded[1].pop("jti")
    assert decoded[1] == claims(scope="read", jti=MISSING)
    assert len(jti) >= 22
    assert signature == b64(hs256(f"{head}.{body}"))


def test_a_token_made_by_the_book_is_read() -> None:
    """The reader accepts the profile, not only its own writer's spelling of it."""
    assert read(VALID).client_id == "reporter"
    assert read(signed(body=json.dumps(claims(), indent=1).encode())).jti == "the-id-of-the-token"


@pytest.mark.parametrize(
    "extra",
    [
        {"jku": "https://evil.example.com/jwks"},
        {"jwk": {"kty": "oct", "k": b64(b"x" * 32)}},
        {"x5u": "https://evil.example.com/cert"},
        {"x5c": ["AAAA"]},
        {"x5t": "AAAA", "cty": "JWT"},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_a_key_that_the_header_brings_along_is_ignored(extra: dict[str, Any]) -> None:
    """Keys come from our ring alone, whatever else the header points to."""
    assert read(signed(header(**extra))).client_id == "reporter"
    refuse(signed(header(**extra), key="x" * 32))


@given(
    client_id=st.text(min_size=1, max_size=255).filter(lambda s: s.isprintable()),
    scope=st.frozensets(st.text("abc:/._-!#[]~", min_size=1, max_size=12), max_size=8),
    roles=st.lists(st.text(max_size=12, alphabet=st.characters(codec="utf-8")), max_size=4),
    seconds=st.integers(1, 86_400),
    age=st.integers(0, 86_400),
)
@settings(max_examples=60)
def test_reading_undoes_signing(
    client_id: str, scope: frozenset[str], roles: list[str], seconds: int, age: int
) -> None:
    """A signed token is read until the second in which it expires, and never after it."""
    issued = NOW.replace(microsecond=0)
    text = sign_access_token(
        settings=SETTINGS,
        keys=RING,
        now=issued,
        client_id=client_id,
        scope=scope,
        roles=roles,
        lifetime=timedelta(seconds=seconds),
    ).text
    assume(len(text) <= LONGEST_TOKEN)
    now = issued + timedelta(seconds=age)
    if age < seconds:
        found = read(text, now=now)
        assert (found.client_id, found.scopes) == (client_id, scope)
        assert found.roles == tuple(sorted(roles))
    else:
        assert refuse(text, now=now) == "expired"


def test_the_leeway_prolongs_a_token_by_exactly_as_much() -> None:
    """A token is good up to its expiry and the leeway, not a moment longer."""
    expires_at = datetime.fromtimestamp(ISSUED + 60, UTC)
    lenient = replace(SETTINGS, leeway=timedelta(seconds=5))
    moment = timedelta(microseconds=1)
    assert read(VALID, now=expires_at - moment)
    assert refuse(VALID, now=expires_at) == "expired"
    assert read(VALID, now=expires_at + 5000 * MINUTE / 60_000 - moment, by=lenient)
    assert refuse(VALID, now=expires_at + timedelta(seconds=5), by=lenient) == "expired"


@pytest.mark.parametrize("leeway", [0, 5])
def test_a_token_is_good_from_its_beginning_on(leeway: int) -> None:
    """`nbf`, which others may sign who share the key, counts less the leeway. RFC 7519, 4.1.5."""
    by, now = replace(SETTINGS, leeway=timedelta(seconds=leeway)), int(NOW.timestamp())
    for begins in (now - 1, now, now + leeway):
        assert read(signed(body=claims(nbf=begins)), by=by)
    for wrong in (now + leeway + 1, str(now), True, None, [now]):
        assert "nbf" in refuse(signed(body=claims(nbf=wrong)), by=by)


def test_a_previous_key_verifies_and_a_dropped_one_does_not() -> None:
    """A key change ends no live token as long as the old key is named."""
    rotated = replace(
        SETTINGS, secret_key=Secret("n" * 40), previous_secret_keys=(SETTINGS.secret_key,)
    )
    keys = ring_for(rotated).verifying
    issuer = rotated.issuer
    assert read_access_token(VALID, issuer=issuer, keys=keys, now=NOW).client_id == "reporter"
    dropped = ring_for(replace(rotated, previous_secret_keys=())).verifying
    with pytest.raises(InvalidToken):
        read_access_token(VALID, issuer=issuer, keys=dropped, now=NOW)


# Re-spelled tokens: RFC 7515 section 2 knows one spelling for each value


def alphabet_variants(text: str) -> set[str]:
    return {
        text.replace("-", "+"),
        text.replace("_", "/"),
        text.replace("-", "+").replace("_", "/"),
    }


def with_unused_bits(part: str) -> list[str]:
    """Other spellings of the same bytes, in the bits that the last character leaves over."""
    unused = {2: 4, 3: 2}.get(len(part) % 4, 0)
    place = BASE64URL.index(part[-1])
    return [part[:-1] + BASE64URL[place | bits] for bits in range(1, 1 << unused)]


def spellings(part: str) -> list[str]:
    padded = [part + "=", part + "==", part + "=" * (-len(part) % 4 or 4)]
    spaced = [f" {part}", f"{part} ", f"{part}\n", f"{part}\r\n", f"{part[:5]}\n{part[5:]}"]
    odd = [f"{part}\0", f"{part[:4]}={part[4:]}", f"{part}A", part[:-1], "", f"{part}\u00e9"]
    return [*padded, *spaced, *odd, *with_unused_bits(part), *alphabet_variants(part)]


@pytest.mark.parametrize("place", [0, 1, 2], ids=["header", "claims", "signature"])
@pytest.mark.parametrize("length", range(4))
def test_a_respelled_part_is_refused(place: int, length: int) -> None:
    """Each part has one spelling: no padding, no other alphabet, no space, no unused bits."""
    text = signed(header(**({"x": "\u00ff" * length} if length else {})), claims(y=">?" * length))
    assert read(text)
    parts = text.split(".")
    for spelling in spellings(parts[place]):
        if spelling != parts[place]:
            refuse(".".join([*parts[:place], spelling, *parts[place + 1 :]]))


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", ["padding", "unused bits"])
def test_a_respelled_part_is_refused_though_it_is_signed(place: int, kind: str) -> None:
    """The spelling itself is refused, not only the signature that no longer fits it."""
    raw = [json.dumps(header()).encode(), json.dumps(claims()).encode()]
    while len(raw[place]) % 3 != 1:
        raw[place] += b" "
    parts = [b64(part) for part in raw]
    parts[place] = parts[place] + "==" if kind == "padding" else with_unused_bits(parts[place])[0]
    message = ".".join(parts)
    assert "base64url" in refuse(f"{message}.{b64(hs256(message))}")


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        "...",
        f"{VALID}.",
        f".{VALID}",
        f"{VALID}.{VALID}",
        f" {VALID}",
        f"{VALID}\n",
        f"Bearer {VALID}",
        VALID.replace(".", "\u3002"),
        VALID.rpartition(".")[0],
        VALID.rpartition(".")[0] + ".",
        f"{VALID}\ud800",
        "\ud800",
        "a" * LONGEST_TOKEN,
        "a.b.c",
        "a" * 10_000_000,
        "." * 8000,
        json.dumps({"protected": VALID.split(".")[0]}),
    ],
)
def test_what_is_no_compact_serialization_is_refused(text: str) -> None:
    """Three parts, bounded, ASCII, nothing around them."""
    refuse(text)


def test_a_token_that_is_too_long_is_refused_though_it_is_signed() -> None:
    """The size of a token is bounded before anything in it is read."""
    assert "longer" in refuse(signed(body=claims(padding="x" * LONGEST_TOKEN)))


# Headers that somebody with the right key could have written


@pytest.mark.parametrize(
    "head",
    [
        header(crit=["exp"]),
        header(crit=[]),
        header(crit=None),
        header(b64=False, crit=["b64"]),
        header(typ=MISSING),
        header(typ="JWT"),
        header(typ="AT+JWT"),
        header(typ="application/at+jwt"),
        header(typ=["at+jwt"]),
        header(typ=None),
        header(alg=MISSING),
        header(alg="none"),
        header(alg="None"),
        header(alg="hs256"),
        header(alg="HS384"),
        header(alg="HS512"),
        header(alg="RS256"),
        header(alg="ES256"),
        header(alg=["HS256"]),
        header(alg=None),
        header(alg=""),
        header(kid=MISSING),
        header(kid="unknown"),
        header(kid=""),
        header(kid=None),
        header(kid=7),
        header(kid=True),
        header(kid=[RING.signing.kid]),
        header(kid={"$ne": None}),
        header(kid=RING.signing.kid.upper() + " "),
        {},
    ],
    ids=repr,
)
def test_a_wrong_header_is_refused_though_it_is_signed(head: dict[str, Any]) -> None:
    """Only our own type, key and algorithm count. RFC 8725 sections 3.1 and 3.11."""
    refuse(signed(head))


def test_a_token_without_a_signature_is_refused() -> None:
    """`alg: none` is no algorithm of ours, whatever stands in the third part. RFC 8725, 2.1."""
    head, body = b64(json.dumps(header(alg="none")).encode()), VALID.split(".")[1]
    for signature in ("", "AA", VALID.split(".")[2]):
        refuse(f"{head}.{body}.{signature}")


def test_a_foreign_key_is_refused() -> None:
    """A signature by anybody else's key does not hold, though it claims our `kid`."""
    assert "signature" in refuse(signed(key="somebody-else's-key-of-more-than-32-bytes"))
    assert "signature" in refuse(signed(key=SETTINGS.secret_key.value + "x"))
    assert "signature" in refuse(signed(key=""))


# Bytes that somebody with the right key could have written


def members(**changes: str) -> bytes:
    """The claims as JSON text, with members given as text too, NaN and its kin among them."""
    texts = {name: json.dumps(value) for name, value in claims().items()} | changes
    return ("{" + ",".join(f'"{name}":{text}' for name, text in texts.items()) + "}").encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        json.dumps([claims()]).encode(),
        json.dumps(claims()).encode("utf-16"),
        b"\xef\xbb\xbf" + json.dumps(claims()).encode(),
        json.dumps(claims()).encode() + b"{}",
        json.dumps(claims()).encode() + b"\0",
        json.dumps(claims()).encode()[:-1] + b', "exp": 9999999999}',
        json.dumps(claims()).encode()[:-1] + b', "\\u0065xp": 9999999999}',
        json.dumps(claims()).encode()[:-1] + b', "x": {"a": 1, "a": 2}}',
        json.dumps(claims()).encode()[:-1] + b', "x": "\xff"}',
        json.dumps(claims()).encode()[:-1] + b', "x": "\\ud800"}',
        json.dumps(claims()).encode()[:-1] + b', "\\udfff": 1}',
        json.dumps(claims()).encode()[:-1] + b",}",
        json.dumps(claims()).encode().replace(b'"', b"'"),
        members(x="NaN"),
        members(x="-Infinity"),
        members(exp="NaN"),
        members(exp="Infinity"),
        members(exp="1e999"),
        members(exp="9" * 5000),
        members(exp="-" + "9" * 5000),
        members(x="9" * 5000),
        members(x="[" * 2000 + "]" * 2000),
        members(x="[" * 5000),
        members(x='{"a":' * 17 + "1" + "}" * 17),
    ],
    ids=lambda body: repr(body[-40:]),
)
def test_a_malformed_part_is_refused_though_it_is_signed(body: bytes) -> None:
    """One JSON object, in UTF-8, with each member once, no deeper than 16. RFC 8725, 2.4."""
    refuse(signed(body=body))
    refuse(signed(head=body))


# Claims that somebody with the right key could have written

WRONG_TEXTS = [MISSING, None, "", 7, 1.5, True, [], ["reporter"], {"$ne": None}, "x" * 256]
WRONG_MOMENTS: list[object] = [
    MISSING, None, "", str(ISSUED + 60), True, False, float(ISSUED + 60), ISSUED + 60.5,
    -1, -(10**18), 253_402_300_800, 2**63, 2**64, 10**400, [ISSUED + 60], {"$gt": 0}, 1e300,
]  # fmt: skip

WRONG_CLAIMS = [
    *[("iss", value) for value in WRONG_TEXTS],
    *[("iss", SETTINGS.issuer + more) for more in ("/", "?", " ", "\0", ".")],
    ("iss", SETTINGS.issuer.upper()),
    ("iss", "https://evil.example.com"),
    *[("aud", value) for value in WRONG_TEXTS],
    *[("aud", SETTINGS.audience + more) for more in ("/", " ", "\0")],
    ("aud", SETTINGS.issuer),
    ("aud", []),
    ("aud", ["https://evil.example.com"]),
    ("aud", [SETTINGS.audience, 1]),
    ("aud", [SETTINGS.audience, ""]),
    ("aud", [SETTINGS.audience] * 11),
    *[("exp", value) for value in WRONG_MOMENTS],
    ("exp", ISSUED),
    ("exp", 0),
    *[("iat", value) for value in WRONG_MOMENTS],
    *[("sub", value) for value in WRONG_TEXTS],
    ("sub", "another"),
    *[("client_id", value) for value in WRONG_TEXTS],
    ("client_id", "another"),
    *[("jti", value) for value in WRONG_TEXTS],
    *[("scope", value) for value in WRONG_TEXTS if value not in ("", "x" * 256)],
    *[("scope", value) for value in (" ", "read  write", " read", "read ", "a\tb", 'a"', "\\")],
    ("scope", "\u00e9"),
    ("scope", "a" * 4097),
    *[("roles", value) for value in (MISSING, None, "", "user", 7, True, {}, {"user": 1})],
    *[("roles", value) for value in ([None], ["user", 7], [["user"]], [True])],
    *[("epoch", value) for value in WRONG_TEXTS if value is not MISSING],
    *[("family_id", value) for value in WRONG_TEXTS if value is not MISSING],
]


@pytest.mark.parametrize(("name", "value"), WRONG_CLAIMS, ids=lambda value: repr(value)[:30])
def test_a_wrong_claim_is_refused_though_it_is_signed(name: str, value: object) -> None:
    """Every required claim is there, of its type and in its range, or the token is no token."""
    refuse(signed(body=claims(**{name: value})))


@pytest.mark.parametrize("leeway", [0, 1, 300])
@pytest.mark.parametrize("exp", [253_370_764_799, 253_402_300_000, 253_402_300_799])
def test_the_end_of_the_calendar_is_no_stumbling_block(exp: int, leeway: int) -> None:
    """A token that expires in the year 9999 is read or refused, whatever the leeway."""
    by = replace(SETTINGS, leeway=timedelta(seconds=leeway))
    try:
        token = read(signed(body=claims(exp=exp)), by=by)
    except InvalidToken:
        return
    assert token.expires_at + timedelta(minutes=10) > NOW


# Everything else


@given(st.data())
@settings(max_examples=300)
def test_no_mutation_of_a_valid_token_is_accepted(data: DataObject) -> None:
    """Whatever is flipped, inserted, removed, moved or repeated in a token ends it."""
    characters = list(VALID)
    for _ in range(data.draw(st.integers(1, 3), "edits")):
        kind = data.draw(st.sampled_from(["replace", "insert", "delete", "swap", "repeat", "case"]))
        place = data.draw(st.integers(0, len(characters) - 1), "place")
        anything = st.one_of(
            st.sampled_from(BASE64URL + "+/=.\n \t\0"), st.characters(categories=None)
        )
        if kind == "replace":
            characters[place] = data.draw(anything)
        elif kind == "insert":
            characters.insert(place, data.draw(anything))
        elif kind == "delete":
            del characters[place]
        elif kind == "swap":
            other = data.draw(st.integers(0, len(characters) - 1), "other")
            characters[place], characters[other] = characters[other], characters[place]
        elif kind == "repeat":
            characters[place:place] = characters[place : place + 8]
        else:
            characters[place] = characters[place].swapcase()
    mutated = "".join(characters)
    assume(mutated != VALID)
    refuse(mutated)


@given(st.integers(0, 2), st.integers(0, 8 * 40))
def test_no_flipped_bit_is_accepted(place: int, bit: int) -> None:
    """Every bit of what is signed, and of the signature, counts."""
    parts = VALID.split(".")
    data = bytearray(base64.urlsafe_b64decode(parts[place] + "=="))
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    parts[place] = b64(bytes(data))
    refuse(".".join(parts))


@given(st.one_of(st.text(alphabet=st.characters(categories=None)), st.binary().map(b64)))
@example("\ud800.\ud800.\ud800")
@settings(max_examples=200)
def test_no_text_raises_anything_but_the_bearer_error(text: str) -> None:
    """Whatever is presented, the answer is `InvalidToken`."""
    refuse(text)


@given(st.lists(st.binary(max_size=60), min_size=3, max_size=3))
def test_no_three_parts_raise_anything_but_the_bearer_error(parts: list[bytes]) -> None:
    """Well-spelled parts with anything inside are refused like everything else."""
    refuse(".".join(map(b64, parts)))


ANY_NUMBER = st.one_of(
    st.integers(), st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False)
)
ANY_JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), ANY_NUMBER, st.text(max_size=20)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
CHANGES = st.dictionaries(
    st.sampled_from([*claims(), "epoch", "family_id", "nbf", "crit"]),
    st.one_of(st.just(MISSING), ANY_JSON),
    max_size=3,
)


@given(
    CHANGES,
    st.dictionaries(
        st.sampled_from([*header(), "crit", "jwk", "x5u", "zip"]), ANY_JSON, max_size=2
    ),
    st.integers(0, 300),
)
@example({"exp": 253_402_300_799}, {}, 300)
@settings(max_examples=300)
def test_whatever_is_signed_is_either_whole_or_refused(
    changes: dict[str, Any], head: dict[str, Any], leeway: int
) -> None:
    """Even the right key's signature gets nothing through that is not of the profile."""
    by = replace(SETTINGS, leeway=timedelta(seconds=leeway))
    body = claims(**changes)
    try:
        token = read(signed(header(**head), body), by=by)
    except InvalidToken:
        return
    assert (header(**head) | {"jwk": 0, "x5u": 0, "zip": 0}) == header(jwk=0, x5u=0, zip=0)
    assert (body["iss"], body["aud"]) == (SETTINGS.issuer, SETTINGS.audience)
    assert token.client_id == body["client_id"] == body["sub"]
    assert type(body["exp"]) is int
    assert type(body["iat"]) is int
    assert body["exp"] + leeway > NOW.timestamp()
    assert token.expires_at == datetime.fromtimestamp(body["exp"], UTC)
    assert " ".join(sorted(token.scopes)) == " ".join(sorted(set(body["scope"].split())))
    assert list(token.roles) == body["roles"]
    assert isinstance(token.epoch, str)
    assert token.family_id is None or isinstance(token.family_id, str)


def test_a_refusal_quotes_nothing_of_the_token() -> None:
    """What goes to the audit log holds no part of what was presented."""
    marker = "a-text-that-must-not-appear"
    makers: list[Callable[[], str]] = [
        lambda: signed(header(kid=marker)),
        lambda: signed(header(typ=marker)),
        lambda: signed(body=claims(iss=marker)),
        lambda: signed(body=claims(exp=marker)),
        lambda: signed(body=f'{{"{marker}"'.encode()),
        lambda: signed(body=f'{{"{marker}":1,"{marker}":2}}'.encode()),
        lambda: marker,
    ]
    assert not [make for make in makers if marker in refuse(make())]


def test_the_ring_knows_its_keys_by_their_ids(ring: KeyRing) -> None:
    """The signing key verifies too, under the `kid` that it writes into headers."""
    assert ring.verifying[ring.signing.kid] is ring.signing


def test_a_token_with_everything_at_its_bound_can_be_read() -> None:
    """Whatever clients and hooks may have, what is handed out is not too long for a guard."""
    room = LARGEST_CLAIMS_BYTES - len(json.dumps({"extra": ""}, separators=(",", ":")))
    extra = checked_claims({"extra": "x" * room})
    scope = frozenset({"s" * 2047, "t" * 2048})
    audience = [f"urn:{n}:" + "a" * 506 for n in range(MOST_RESOURCES)]
    token = sign_access_token(
        settings=SETTINGS,
        keys=RING,
        now=NOW,
        client_id="c" * LONGEST_TYPED_ID,
        scope=scope,
        roles=["r" * LONGEST_ROLE],
        lifetime=MINUTE,
        epoch="e" * 8,
        family_id="f" * 22,
        audience=audience,
        jkt="j" * 43,
        extra=extra,
    ).text
    rs256 = 342  # the longest signature, in base64url
    assert len(token) + rs256 + len(LONGEST_ISSUER_TRIED) < LONGEST_TOKEN
    found = read_access_token(
        token, issuer=SETTINGS.issuer, keys=RING.verifying, now=NOW, leeway=SETTINGS.leeway
    )
    assert found.claims["extra"] == "x" * room
    assert found.scopes == scope


#: Nothing bounds an issuer's name; this is more than anybody has.
LONGEST_ISSUER_TRIED = "https://" + "i" * 500


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
NAMES = st.text(max_size=8) | st.sampled_from(["sub", "exp", "roles", "scope", "tenant"])


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=4))
def test_claims_of_a_hook_come_back_as_they_were_or_are_refused(
    added: dict[str, Any],
) -> None:
    """Whatever they are, the token can be read, and says of itself what it would without them."""
    try:
        extra = checked_claims(added)
    except ClaimsRefused:
        return
    text = sign_access_token(
        settings=SETTINGS,
        keys=RING,
        now=NOW,
        client_id="reporter",
        scope=frozenset({"read"}),
        roles=["user"],
        lifetime=MINUTE,
        extra=extra,
    ).text
    found = read(text)
    assert {name: found.claims[name] for name in added} == added
    own = {name: claim for name, claim in found.claims.items() if name not in added}
    assert own == {**claims(iat=ISSUED, jti=found.jti, scope="read")}
