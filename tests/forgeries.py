"""Signatures that are almost good, as the Wycheproof vectors have them, made from our own keys."""

from __future__ import annotations

import hashlib

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.proofs import P256_ORDER as N
from tests.proofs import Key

#: RFC 8017 section 9.2, note 1: what stands before a SHA-256 hash.
DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
#: The same, said in a way that some readers take.
ALMOST_DIGEST_INFO = {
    "parameters missing": "302f300b06096086480165030402010420",
    "a long form of a length": "308131300d060960864801650304020105000420",
    "garbage in the parameters": "3033300f060960864801650304020105020a0b0420",
    "the name of SHA-512": "3031300d060960864801650304020305000420",
    "the name of MD5": "302c300806082a864886f70d020505000420",
}


def twin(signature: bytes) -> bytes:
    """The other ECDSA signature over the same message, which anybody can compute."""
    r, s = signature[:32], int.from_bytes(signature[32:])
    return r + (N - s).to_bytes(32)


def ecdsa_forgeries(key: Key, message: bytes) -> dict[str, bytes]:
    """What must not be taken for the signature of an ES256 key over a message."""
    good = key.sign(message)
    r, s = int.from_bytes(good[:32]), int.from_bytes(good[32:])
    zero, one, order, most = (n.to_bytes(32) for n in (0, 1, N, 2**256 - 1))
    half = good[:32], good[32:]
    wrong_hash = key.private.sign(message, ec.ECDSA(hashes.SHA512()))
    return {
        "empty": b"",
        "zero r and s": zero + zero,
        "zero r": zero + half[1],
        "zero s": half[0] + zero,
        "one and one": one + one,
        "one and zero": one + zero,
        "r is the order": order + half[1],
        "s is the order": half[0] + order,
        "both are the order": order + order,
        "one more than the order": (N + 1).to_bytes(32) * 2,
        "as large as can be": most + most,
        "r and the order": (r + N).to_bytes(33) + half[1].rjust(33, b"\0"),
        "s and the order": half[0].rjust(33, b"\0") + (s + N).to_bytes(33),
        "r and the order, cut": (r + N).to_bytes(33)[1:] + half[1],
        "negative r": (N - r).to_bytes(32) + half[1],
        "halves swapped": half[1] + half[0],
        "bytes backwards": good[::-1],
        "one byte short": good[:-1],
        "without its first byte": good[1:],
        "r alone": half[0],
        "one byte long": good + b"\0",
        "a byte before": b"\0" + good,
        "twice": good + good,
        "halves with leading zeros": b"\0" + half[0] + b"\0" + half[1],
        "halves of 48 bytes": half[0].rjust(48, b"\0") + half[1].rjust(48, b"\0"),
        "DER": encode_dss_signature(r, s),
        "as hexadecimal": good.hex().encode(),
        "of another message": key.sign(message + b"\0"),
        "of the message's hash": key.sign(hashlib.sha256(message).digest()),
        "over another hash, in DER": wrong_hash,
        "another key's": Key().sign(message),
    }


def rsa_forgeries(key: Key, message: bytes) -> dict[str, bytes]:
    """What must not be taken for the signature of an RS256 key over a message."""
    good = key.sign(message)
    size, digest = len(good), hashlib.sha256(message).digest()
    n: int = key.private.public_key().public_numbers().n
    number = int.from_bytes(good)
    info = DIGEST_INFO + digest
    sha1 = bytes.fromhex("3021300906052b0e03021a05000414") + hashlib.sha1(message).digest()  # noqa: S324
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)

    def raw(block: bytes) -> bytes:
        """The private operation over a block of ours. RFC 8017 section 5.2.1."""
        assert len(block) == size
        d: int = key.private.private_numbers().d
        return pow(int.from_bytes(block), d, n).to_bytes(size)

    def padded(what: bytes, start: bytes = b"\0\1", fill: bytes = b"\xff") -> bytes:
        return start + fill * (size - len(start) - 1 - len(what)) + b"\0" + what

    assert raw(padded(info)) == good
    return {
        "empty": b"",
        "zero": b"\0" * size,
        "one": b"\1".rjust(size, b"\0"),
        "the modulus": n.to_bytes(size),
        "one less than the modulus": (n - 1).to_bytes(size),
        "and the modulus": (number + n).to_bytes(size + 1),
        "negative": (n - number).to_bytes(size),
        "one byte short": good[:-1],
        "without its first byte": good[1:],
        "one byte long": good + b"\0",
        "a byte before": b"\0" + good,
        "backwards": good[::-1],
        "the hash alone": raw(padded(digest)),
        "no padding": raw(info.rjust(size, b"\0")),
        "padding of zeros": raw(padded(info, fill=b"\0")),
        "padding of type 0": raw(padded(info, b"\0\0")),
        "padding of type 2": raw(padded(info, b"\0\2", b"\x55")),
        "padding with another byte": raw(padded(info)[:9] + b"\xfe" + padded(info)[10:]),
        "short padding, garbage behind": raw(
            (b"\0\1" + b"\xff" * 8 + b"\0" + info).ljust(size, b"\x5a")
        ),
        "no padding, garbage behind": raw((b"\0\1\0" + info).ljust(size, b"\0")),
        "no zero behind the padding": raw(b"\0\1" + b"\xff" * (size - 2 - len(info)) + info),
        "a hash cut short": raw(padded(DIGEST_INFO + digest[:-1])),
        "a hash of nothing": raw(padded(DIGEST_INFO[:-1] + b"\0")),
        **{
            name: raw(padded(bytes.fromhex(almost) + digest))
            for name, almost in ALMOST_DIGEST_INFO.items()
        },
        "SHA-1": raw(padded(sha1)),
        "SHA-512": key.private.sign(message, padding.PKCS1v15(), hashes.SHA512()),
        "PSS": key.private.sign(message, pss, hashes.SHA256()),
        "of another message": key.sign(message + b"\0"),
        "of the message's hash": key.sign(digest),
        "the message itself": message[:size].rjust(size, b"\0"),
    }
