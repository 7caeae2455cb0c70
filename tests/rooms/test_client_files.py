"""Clients in a file, as YAML."""

from __future__ import annotations

import pytest

from _oauth2_m2m import client_files
from _oauth2_m2m.client_files import LARGEST_FILE_BYTES, text_of, wanted_from
from _oauth2_m2m.client_import import Source, read_export

BILLING = "clients:\n  billing:\n    scopes: [read]\n"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "nothing else"),
        ("clients", "nothing else"),
        ("- clients", "nothing else"),
        ("clients: [billing]", "by its id"),
        (BILLING + "secrets: {}\n", "nothing else"),
        (BILLING + "  billing:\n    scopes: []\n", "line 4: 'billing' stands there twice"),
        ("clients: {a: {scopes: [x], scopes: [y]}}", "twice"),
        ("clients:\n\t- x", "line 2"),
        ("clients: !!python/object/apply:os.system [echo]", "constructor"),
        ("[" * 5000, "nested|YAML"),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_file_of_clients_is_told(text: str, word: str) -> None:
    """With the place where it goes wrong, and nothing in it is ever carried out."""
    with pytest.raises(ValueError, match=word):
        wanted_from(text)


def test_a_file_has_a_size() -> None:
    """One that is larger is not read."""
    text = BILLING.ljust(LARGEST_FILE_BYTES, "\n")
    assert wanted_from(text) == {"billing": {"scopes": ["read"]}}
    with pytest.raises(ValueError, match="larger"):
        wanted_from(text + "\n")


def test_what_is_written_is_read_again_and_holds_no_secret() -> None:
    """Fields that somebody set, and nothing that is secret or happens by itself."""
    document = {
        "client_id": "billing",
        "client_secret": "sha256$x",
        "client_secret_details": {"id": "one"},
        "secrets": [{"secret": "plain"}],
        "epoch": "e",
        "scopes": ["read"],
        "role": "user",
        "name": "Ünïcode: yes",
        "disabled": True,
    }
    text = text_of([document, {"client_id": "1"}])
    assert wanted_from(text) == {
        "billing": {"scopes": ["read"], "role": "user", "name": "Ünïcode: yes", "disabled": True},
        "1": {"scopes": []},
    }
    assert not [word for word in ("sha256", "plain", "secret", "epoch") if word in text]
    assert wanted_from("clients:\n") == {}


NESTED = "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 8)}]\n" for number in range(1, 20)
)
ALIASES = f"a0: &a0 [x, x, x, x, x, x, x, x]\n{NESTED}"


def test_aliases_make_no_file_endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they would come to is counted before anybody walks through it; some are fine."""
    for text in (f"clients: {{}}\n{ALIASES}", "clients: &all {one: *all}\n"):
        with pytest.raises(ValueError, match="aliases included"):
            wanted_from(text)
    with pytest.raises(ValueError, match="aliases included"):
        read_export(Source.AUTH0, f"clients: []\n{ALIASES}")
    shared = "clients:\n  one: {scopes: &all [read, write]}\n  two: {scopes: *all}\n"
    monkeypatch.setattr(client_files, "MOST_VALUES", 10)
    assert wanted_from(shared)["two"] == {"scopes": ["read", "write"]}
    monkeypatch.setattr(client_files, "MOST_VALUES", 9)
    with pytest.raises(ValueError, match="more than 9 values"):
        wanted_from(shared)
