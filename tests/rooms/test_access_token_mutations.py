"""Access tokens against the mutations of the public vectors, made from keys of our own.

The attacks are those of the Wycheproof vectors for JSON Web Signatures and keys, and of RFC 8725.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding

from _oauth2_m2m.access_tokens import AccessToken, read_access_token
from _oauth2_m2m.config import Secret
from _oauth2_m2m.errors import InvalidToken
from _oauth2_m2m.signatures import hs256_key, public_key_from_jwk
from tests.forgeries import ecdsa_forgeries, rsa_forgeries, twin
from tests.proofs import MISSING, Key, b64, changed, compact, key

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
ISSUED = int(NOW.timestamp())
ISSUER = "https://auth.example.com"
EC, RSA = key("server"), key("server", "RS256")
SECRET = "a secret of the server that has more than thirty-two bytes"
SHARED = hs256_key(Secret(SECRET))
ATTACKER, RSA_ATTACKER = key("attacker"), key("attacker", "RS256")
#: The ring of a server that has changed its algorithm twice.
RING = {
    **{mine.jkt: public_key_from_jwk(mine.jwk) for mine in (EC, RSA)},
    SHARED.kid: SHARED,
}
CLAIMS = {
    "iss": ISSUER,
    "sub": "reporter",
    "client_id": "reporter",
    "aud": "https://api.example.com",
    "iat": ISSUED,
    "exp": ISSUED + 60,
    "jti": "the-id-of-the-token",
    "scope": "read",
    "roles": ["user"],
}
BOTH = pytest.mark.parametrize("mine", [EC, RSA], ids=lambda mine: mine.algorithm)


def header(mine: Key, **changes: Any) -> dict[str, Any]:
    return changed({"typ": "at+jwt", "alg": mine.algorithm, "kid": mine.jkt}, changes)


def token(mine: Key = EC, by: Key | None = None, **head: Any) -> str:
    """A token of the server's key, signed by it or by another."""
    return compact(header(mine, **head), CLAIMS, by or mine)


def shared(head: dict[str, Any], secret: bytes) -> str:
    """A token that is signed with a shared secret."""
    message = ".".join(b64(json.dumps(part).encode()) for part in (head, CLAIMS))
    return f"{message}.{b64(hmac.digest(secret, message.encode(), hashlib.sha256))}"


def read(text: str) -> AccessToken:
    return read_access_token(text, issuer=ISSUER, keys=RING, now=NOW)


def refuse(text: str) -> None:
    with pytest.raises(InvalidToken) as refusal:
        read(text)
    assert refusal.value.description == InvalidToken.default


def test_the_tokens_that_are_mutated_are_good() -> None:
    """Each key of the ring signs tokens that are read: what is refused below was good before."""
    for mine in (EC, RSA):
        assert read(token(mine)).kid == mine.jkt
    head = {"typ": "at+jwt", "alg": "HS256", "kid": SHARED.kid}
    assert read(shared(head, SECRET.encode())).kid == SHARED.kid


# Which algorithm


@BOTH
@pytest.mark.parametrize(
    "alg",
    [
        MISSING, None, "", "none", "None", "NONE", "nOnE", "none ", "HS256", "HS384", "HS512",
        "RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "ES512", "ES256K", "EdDSA", "es256",
        "rs256", "A128KW", "dir", "RSA-OAEP", 0, True, ["ES256"], ["none"], {"alg": "ES256"},
    ],
    ids=repr,
)  # fmt: skip
def test_the_key_chooses_the_algorithm(mine: Key, alg: Any) -> None:
    """Whatever the header says, a key serves its one algorithm. RFC 8725 sections 2.1, 3.1."""
    if alg == mine.algorithm:
        return
    good = token(mine)
    refuse(token(mine, alg=alg))
    head, claims, _ = token(mine, alg=alg).split(".")
    refuse(f"{head}.{claims}.")
    refuse(f"{head}.{claims}.{good.split('.')[2]}")


def public_spellings(mine: Key) -> dict[str, bytes]:
    """Everything that an attacker might take for the secret of a server that confuses keys."""
    public = mine.private.public_key()
    pem, der = serialization.Encoding.PEM, serialization.Encoding.DER
    info = serialization.PublicFormat.SubjectPublicKeyInfo
    numbers = public.public_numbers()
    spellings = {
        "PEM": public.public_bytes(pem, info),
        "PEM without its last line's end": public.public_bytes(pem, info).rstrip(b"\n"),
        "DER": public.public_bytes(der, info),
        "JWK": json.dumps(mine.jwk).encode(),
        "JWK, as its thumbprint is made": json.dumps(
            dict(sorted(mine.jwk.items())), separators=(",", ":")
        ).encode(),
        "thumbprint": mine.jkt.encode(),
        "nothing": b"",
        "a zero": b"\0",
    }
    if mine.algorithm == "ES256":
        point = serialization.PublicFormat.UncompressedPoint
        spellings["point"] = public.public_bytes(serialization.Encoding.X962, point)
        spellings["numbers"] = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)
        spellings["x"] = numbers.x.to_bytes(32)
    else:
        spellings["PKCS #1"] = public.public_bytes(pem, serialization.PublicFormat.PKCS1)
        spellings["n"] = numbers.n.to_bytes(256)
    return spellings


@BOTH
def test_a_public_key_is_no_shared_secret(mine: Key) -> None:
    """HMAC with what everybody knows of a key proves nothing. RFC 8725 section 2.1."""
    for name, secret in public_spellings(mine).items():
        for alg in ("HS256", mine.algorithm):
            text = shared(header(mine, alg=alg), secret)
            with pytest.raises(InvalidToken):
                pytest.fail(f"{name}: {read(text)}")


def test_keys_of_different_types_are_not_mixed_up() -> None:
    """A good signature under another key's id, or another key's algorithm, is none."""
    for mine, other in ((EC, RSA), (RSA, EC)):
        refuse(token(mine, by=other))
        refuse(token(mine, by=other, alg=other.algorithm))
        refuse(token(mine, by=other, kid=other.jkt))
        refuse(token(mine, kid=other.jkt))
        refuse(token(mine, kid=other.jkt, alg=other.algorithm))
        refuse(token(mine, kid=SHARED.kid))
        refuse(token(mine, kid=SHARED.kid, alg="HS256"))
        refuse(shared(header(mine), SECRET.encode()))
        refuse(shared(header(mine, alg="HS256"), SECRET.encode()))


def test_other_hashes_and_paddings_are_refused() -> None:
    """Signatures of RS384, RS512, PS256 and ES512 by the right key are not of its algorithm."""
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    makers: list[tuple[Key, str, Callable[[bytes], bytes]]] = [
        (RSA, "RS384", lambda m: RSA.private.sign(m, padding.PKCS1v15(), hashes.SHA384())),
        (RSA, "RS512", lambda m: RSA.private.sign(m, padding.PKCS1v15(), hashes.SHA512())),
        (RSA, "PS256", lambda m: RSA.private.sign(m, pss, hashes.SHA256())),
        (EC, "ES512", lambda m: EC.private.sign(m, ec.ECDSA(hashes.SHA512()))),
    ]
    for mine, alg, sign in makers:
        for named in (alg, mine.algorithm):
            message = token(mine, alg=named).rpartition(".")[0]
            refuse(f"{message}.{b64(sign(message.encode()))}")


# Which key


@BOTH
@pytest.mark.parametrize(
    "kid",
    [MISSING, None, "", 0, True, [], ["x"], {"x": 1}, "unknown", "../../dev/null", "/dev/null",
     "' OR 1=1 --", "x\0", "__class__", "x" * 10_000],
    ids=lambda kid: repr(kid)[:20],
)  # fmt: skip
def test_an_unknown_key_is_not_looked_for_anywhere(mine: Key, kid: Any) -> None:
    """The header names one of the server's keys, exactly, or the token is none."""
    refuse(token(mine, kid=kid))
    for other in (" ", "=", "\0", ".pem"):
        refuse(token(mine, kid=mine.jkt + other))
    refuse(token(mine, kid=mine.jkt.swapcase()))


@pytest.mark.parametrize(("mine", "attacker"), [(EC, ATTACKER), (RSA, RSA_ATTACKER)])
def test_keys_that_a_token_brings_along_prove_nothing(mine: Key, attacker: Key) -> None:
    """`jwk`, `jku`, `x5u` and `x5c` are never looked at. RFC 8725 section 3.10."""
    brought: dict[str, Any] = {"jwk": {**attacker.jwk, "kid": mine.jkt}, "jku": "http://127.0.0.1:9/jwks.json",
                               "x5u": "http://127.0.0.1:9/x5c", "x5c": ["MIIB"]}  # fmt: skip
    refuse(token(mine, by=attacker))
    for name, value in brought.items():
        refuse(token(mine, by=attacker, **{name: value}))
        refuse(token(mine, by=attacker, kid=attacker.jkt, **{name: value}))
        assert read(token(mine, **{name: value})).jti == CLAIMS["jti"]
    refuse(token(mine, by=attacker, **brought))


# What kind of token


@BOTH
@pytest.mark.parametrize(
    "typ",
    [MISSING, None, "", "JWT", "jwt", "AT+JWT", "at+jwt ", "at", "application/at+jwt", "dpop+jwt",
     "logout+jwt", "secevent+jwt", "JOSE", ["at+jwt"], {"at+jwt": 1}, True],
    ids=repr,
)  # fmt: skip
def test_only_access_tokens_are_access_tokens(mine: Key, typ: Any) -> None:
    """Whatever else a key may have signed, it is not for this. RFC 8725 section 3.11."""
    refuse(token(mine, typ=typ))


@BOTH
@pytest.mark.parametrize(
    "crit",
    [None, [], ["b64"], ["exp"], ["kid"], ["http://example.invalid/UNDEFINED"], [""], [1], "kid",
     {"kid": True}, True, 0],
    ids=repr,
)  # fmt: skip
def test_a_critical_extension_is_never_passed_over(mine: Key, crit: Any) -> None:
    """RFC 7515 section 4.1.11: whoever does not understand what is critical refuses it."""
    refuse(token(mine, crit=crit))
    known: dict[str, Any] = {"b64": False, "http://example.invalid/UNDEFINED": True}
    refuse(token(mine, crit=crit, **known))


def test_an_unencoded_payload_is_refused() -> None:
    """Claims that stand in the clear are no claims, critical or not. RFC 7797."""
    for head in (header(EC, b64=False), header(EC, b64=False, crit=["b64"])):
        message = f"{b64(json.dumps(head).encode())}.{json.dumps(CLAIMS)}"
        refuse(f"{message}.{b64(EC.sign(message.encode()))}")


# Signatures


def test_no_forged_ecdsa_signature_is_accepted() -> None:
    """Zeros, numbers beyond the order, other lengths, DER: nothing but r and s of 32 bytes each."""
    message = token().rpartition(".")[0]
    for name, signature in ecdsa_forgeries(EC, message.encode()).items():
        with pytest.raises(InvalidToken):
            pytest.fail(f"{name}: {read(f'{message}.{b64(signature)}')}")


def test_no_forged_rsa_signature_is_accepted() -> None:
    """Bad paddings, other hashes, other lengths: nothing but the one signature."""
    message = token(RSA).rpartition(".")[0]
    for name, signature in rsa_forgeries(RSA, message.encode()).items():
        with pytest.raises(InvalidToken):
            pytest.fail(f"{name}: {read(f'{message}.{b64(signature)}')}")


def test_the_twin_of_a_signature_is_the_same_token() -> None:
    """Anybody can make it, and it is hit by the same mark: revocation is by `jti`."""
    message = token().rpartition(".")[0]
    raw = EC.sign(message.encode())
    texts = {f"{message}.{b64(each)}" for each in (raw, twin(raw))}
    assert len(texts) == 2
    found = [read(text) for text in texts]
    assert found[0] == found[1]
    assert {each.jti for each in found} == {CLAIMS["jti"]}


@BOTH
def test_a_signature_is_for_its_own_header_and_claims(mine: Key) -> None:
    """Parts of good tokens do not make another good one."""
    one = token(mine).split(".")
    two = compact(header(mine), {**CLAIMS, "jti": "another", "scope": "admin"}, mine).split(".")
    for parts in (
        [one[0], two[1], one[2]],
        [two[0], two[1], one[2]],
        [one[0], one[1], two[2]],
        [one[1], one[0], one[2]],
        [one[0], one[0], one[2]],
        [one[0], one[1], one[1]],
    ):
        refuse(".".join(parts))
    spaced = b64(json.dumps(header(mine), indent=1).encode())
    refuse(".".join([spaced, *one[1:]]))


@BOTH
def test_a_token_in_another_spelling_is_refused(mine: Key) -> None:
    """The same bytes, written otherwise: one token has one text, so it has one digest."""
    text = token(mine)
    head, claims, signature = text.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    unused = [f"{signature[:-1]}{alphabet[last | bits]}" for bits in range(1, 16)]
    respelled = [f"{head}.{claims}.{each}" for each in unused if each != signature]
    assert len(respelled) >= 3
    respelled += [
        f"{text}=", f"{text}==", f"{text}\n", f" {text}", f"{text} ", f"{text}.", f".{text}",
        f"{head}=.{claims}.{signature}", f"{head}.{claims}=.{signature}",
        f"{head}\n.{claims}.{signature}",
        f"{head}.{claims}.{signature[:20]}\n{signature[20:]}", f"{head}.{claims}. {signature}",
        f"{head}.{claims}.{signature}A", f"{head}.{claims}.{signature}AA", f"{text}\0",
        f"{head}..{signature}", f".{claims}.{signature}", f"{head}.{claims}", f"{head}.{claims}.",
        f"{head}.{claims}.{signature}.{signature}", text.replace(".", "%2E"), f"Bearer {text}",
        text.replace("-", "+").replace("_", "/") if set("-_") & set(text) else f"{text}+",
        text.upper(), text.lower(), text[::-1], f"{text},{text}", f'"{text}"', b64(text.encode()),
        json.dumps({"protected": head, "payload": claims, "signature": signature}),
    ]  # fmt: skip
    for each in respelled:
        refuse(each)
