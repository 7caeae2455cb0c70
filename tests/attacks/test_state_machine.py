"""Thousands of steps by chance, each answered as the model says.

What lives works, what is dead is refused in the documented words, and nothing that anybody sends is
a 500.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from random import Random
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    rule,
    run_state_machine_as_test,
)
from pymongo.database import Database

from oauth2_m2m import ClientNotFound, InvalidToken
from tests.assertions import es256_key, jwks
from tests.assertions import fields as assertion_fields
from tests.attacks import model
from tests.attacks.garbage import OTHER_TYPES, TAMPERINGS, Sent, nonsense, with_basic
from tests.attacks.model import (
    AUDIENCE,
    BAD_PROOF,
    INVALID_CLIENT,
    INVALID_REQUEST,
    INVALID_TOKEN,
    OK,
    TOO_MANY,
    Access,
    Answer,
    Client,
    Family,
    Issued,
    Proof,
    Refresh,
    Scope,
    Token,
)
from tests.attacks.witness import BY_STORIES
from tests.attacks.world import World, document, form, world_on
from tests.machine import basic, claims_of
from tests.proofs import b64, key

STORIES, EXAMPLES, STEPS = 6, 10, 40
#: The same steps in every run; `ATTACKS_SEED=2 pytest tests/attacks` plays others, and says what
#: it finds in as few steps as it can, which takes its time.
SEED = int(os.environ.get("ATTACKS_SEED", "1")) * 1000
SHRINKS = "ATTACKS_SEED" in os.environ
AT_ONCE, NONSENSE_AT_ONCE = 6, 50
GRACE = timedelta(seconds=600)
OVERLAP = timedelta(hours=1)
#: A second, a minute, an access token's life, an overlap's, a refresh token's.
PASSING = [1, 61, 61, 61, 15 * 60, 3600, 31 * 24 * 3600]

RESOURCE = "https://a.example/x"
SIGNERS = {"signer": es256_key("signer"), "other": es256_key("other")}
KINDS: dict[str, dict[str, Any]] = {
    "common": {"scopes": ["read", "write"]},
    "admin": {"scopes": ["read", "admin", "introspect"], "role": "admin"},
    "narrow": {"scopes": ["write"], "audience": [RESOURCE]},
    "limited": {"scopes": ["read"], "max_requests_per_minute": 4},
    "signer": {"scopes": ["read", "write"], "jwks": jwks(SIGNERS["signer"])},
    "bound": {"scopes": ["read", "introspect"], "dpop_bound_access_tokens": True},
}
ROUTES = {"/protected": (frozenset({"read"}), None), "/admin-only": (frozenset({"admin"}), "admin")}

#: What steps are made of, each as often as it is to happen.
HOWS = [
    *["right"] * 20, "basic", "post", "plain", "key", "wrong", "former", "nobody", "none", "both",
    "replayed",
]  # fmt: skip
SCOPES = ["", "", "", "read", "write", "read write", "admin", "introspect"]
AUDIENCES = [*[()] * 5, (AUDIENCE,), (RESOURCE,), (AUDIENCE, RESOURCE)]
PROOFS = [*["natural"] * 20, "a", "b", "stale", "replayed", "elsewhere"]
SCHEMES = [*["natural"] * 6, "Bearer", "DPoP"]
#: Of tokens: how many younger ones of the same client are left aside.
AGES = [0, 0, 0, 1, 2, 5]
ABOUTS = ["access", "refresh"]
FORGERIES = ["claims", "signature", "padding", "none", "suffix"]
CHANGES = ["enable", "enable", "revoke_tokens", "disable", "remove"]
NONSENSE: list[dict[str, Any]] = [{"ALGORITHM": "none"}, {"REFRESH_GRACE_SECONDS": -1}]
TYPED = ["enable", "enable", "scopes", "disable", "remove"]
SCOPES_TYPED = ["read write", "read", "write", "read write admin"]
SWITCHES = ["grace", "authentication", "refresh tokens"]
HINTS = ["", "access_token", "refresh_token", "x"]
ENDPOINTS = ["/token", "/introspect", "/revoke", "refresh"]
KIND_NAMES = sorted(KINDS)
EITHER, MOSTLY = [True, False], [True, True, True, False]
lucks = st.integers(0, 2**32 - 1)
#: What is refused with a challenge, by guarded routes. RFC 6750 section 3.
CHALLENGED = {"insufficient_scope", "invalid_dpop_proof"}
Headers = dict[str, str]
Fields = dict[str, str]


def words(scope: str) -> Scope:
    """A scope as a set."""
    return frozenset(scope.split())


class NothingToDo(Exception):
    """This step is not for this moment."""


def needs(condition: object) -> None:
    """Go on only if there is something to do; `assume` would end the whole story."""
    if not condition:
        raise NothingToDo


def step(play: Callable[[Attacks, int], None]) -> Any:
    """A rule that is made up from one number."""

    @wraps(play)
    def play_if_there_is_something_to_do(self: Attacks, luck: int) -> None:
        with suppress(NothingToDo):
            play(self, luck)

    return rule(luck=lucks)(play_if_there_is_something_to_do)


class Attacks(RuleBasedStateMachine):
    """Clients, their tokens, operators and attackers, in any order.

    There is one client of each kind at a time, and tokens are taken newest first, so that most
    steps have something to do with those before. Hypothesis chooses the steps, and a number for
    each from which it is made up: left to choose everything, it repeats itself.
    """

    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.names = itertools.count(1)
        self.steps = 0
        self.is_over = False
        self.everything: dict[str, list[Issued]] = {kind: [] for kind in KINDS}
        self.last_proof = self.sent_proof = self.last_assertion = ""
        self.grace = timedelta(0)
        self.requires_auth = False
        self.issues_refresh = True
        self.world.begin()
        self.auditor = self._registered("admin")
        self.clients = {kind: self._registered(kind) for kind in KINDS}

    def _roll(self, luck: int, *choices: Sequence[Any]) -> Any:
        """One of each of these, by chance: the same in the same step with the same luck."""
        self.steps += 1
        dice = Random(f"{luck} {self.steps}")  # noqa: S311
        rolled = [dice.choice(choice) for choice in choices]
        note(f"{luck}: {rolled}")
        return rolled

    # --- Clients --------------------------------------------------------------------------------

    def _registered(self, kind: str) -> Client:
        made = self.world.run(self.world.server.m2m.clients.register(**KINDS[kind]))
        client = Client(
            f"{kind}{next(self.names)}",
            made.client.client_id,
            frozenset(KINDS[kind]["scopes"]),
            role=KINDS[kind].get("role", "user"),
            key=SIGNERS.get(kind),
            audience=tuple(KINDS[kind].get("audience", ())),
            bound=kind == "bound",
            limit=KINDS[kind].get("max_requests_per_minute", 0),
        )
        if made.client_secret is not None:
            self._learn_secret(client, made.client_secret)
        return client

    def _learn_secret(self, client: Client, secret: str) -> None:
        client.secrets[secret] = None
        self.world.witness.secrets.add(secret)

    @step
    def a_client_is_registered(self, luck: int) -> None:
        """Another one in the place of one that was removed or disabled."""
        (kind,) = self._roll(luck, KIND_NAMES)
        if not self.clients[kind].works:
            self.clients[kind] = self._registered(kind)

    @step
    def an_operator_changes_a_client(self, luck: int) -> None:
        """By the door: it is seen at once."""
        self._change(*self._roll(luck, KIND_NAMES, CHANGES))

    def _change(self, kind: str, change: str) -> None:
        client = self.clients[kind]
        try:
            self.world.run(getattr(self.world.server.m2m.clients, change)(client.client_id))
        except ClientNotFound:
            assert client.removed
            return
        assert not client.removed
        client.epoch += change != "enable"
        client.disabled = {"disable": True, "enable": False}.get(change, client.disabled)
        client.removed = change == "remove"

    @step
    def an_operator_types_in_mongosh(self, luck: int) -> None:
        """By hand: it is seen within the time that is promised for it."""
        self._type(*self._roll(luck, KIND_NAMES, TYPED, SCOPES_TYPED))

    def _type(self, kind: str, change: str, scope: str = "") -> None:
        client, known = self.clients[kind], {"client_id": self.clients[kind].client_id}
        if change == "remove":
            self.world.database["clients"].delete_one(known)
            client.removed = True
        elif change == "scopes":
            typed = {"scopes": scope.split()}
            self.world.database["clients"].update_one(known, {"$set": typed})
            client.scopes = words(scope)
        else:
            typed_flag = {"disabled": change == "disable"}
            self.world.database["clients"].update_one(known, {"$set": typed_flag})
            client.disabled = change == "disable"
        self.world.wait()

    @step
    def a_secret_is_rotated(self, luck: int) -> None:
        """With an overlap both secrets work for a while; without one, nothing of before does."""
        kind, overlap = self._roll(luck, KIND_NAMES, [timedelta(0), OVERLAP])
        client = self.clients[kind]
        needs(client.key is None and not client.removed and len(client.secrets) < 5)
        rotate = self.world.server.m2m.clients.rotate_secret(client.client_id, overlap=overlap)
        made = self.world.run(rotate).client_secret
        assert made is not None
        client.former_secrets += [secret for secret, end in client.secrets.items() if end is None]
        if overlap:
            until = self.world.now + overlap
            client.secrets = {s: min(end or until, until) for s, end in client.secrets.items()}
        else:
            client.secrets = {}
            client.epoch += 1
        self._learn_secret(client, made)

    # --- Settings and time ----------------------------------------------------------------------

    @step
    def a_setting_is_switched(self, luck: int) -> None:
        """By hand, as operators do it."""
        switch, on = self._roll(luck, SWITCHES, EITHER)
        if switch == "grace":
            self.grace = GRACE if on else timedelta(0)
            self.world.configure(REFRESH_GRACE_SECONDS=int(self.grace.total_seconds()))
        elif switch == "authentication":
            self.requires_auth = on
            self.world.configure(REFRESH_REQUIRES_CLIENT_AUTH=on)
        else:
            self.issues_refresh = on
            self.world.configure(ISSUE_REFRESH_TOKENS=on)

    @step
    def nonsense_is_typed_into_the_config(self, luck: int) -> None:
        """The last good settings stay."""
        (nonsense,) = self._roll(luck, NONSENSE)
        self.world.configure(**nonsense)
        answer = self.world.send(Sent("GET", "/.well-known/oauth-authorization-server"))
        assert answer.status_code == 200
        self.world.configure(
            ALGORITHM="HS256", REFRESH_GRACE_SECONDS=int(self.grace.total_seconds())
        )

    @step
    def time_passes(self, luck: int) -> None:
        """Nobody waits for it."""
        (seconds,) = self._roll(luck, PASSING)
        self.world.let_pass(seconds)

    # --- Proving who one is ---------------------------------------------------------------------

    def _proves(
        self, client: Client, how: str, *, plain: bool = False
    ) -> tuple[Answer | None, Headers, Fields]:
        """How a client proves itself, and what is wrong with that, if anything."""
        if how == "right":
            how = "key" if client.key else "basic"
        secret = next(reversed(client.secrets), "no-such-secret")
        if how == "former":
            secret = next(reversed(client.former_secrets), "no-such-secret")
        elif how == "wrong":
            secret = "wrong-" + secret[6:]
        client_id = "nobody" if how == "nobody" else client.client_id
        in_form = {"client_id": client_id, "client_secret": secret}
        is_proved = client_id != "nobody" and client.accepts(secret, self.world.now)
        fault = None if is_proved else INVALID_CLIENT
        match how:
            case "token":  # the refresh token itself
                return None, {}, {}
            case "none":
                return INVALID_CLIENT, {}, {}
            case "both":
                return INVALID_REQUEST, {"authorization": basic(client_id, secret)}, in_form
            case "plain" if plain:
                return fault, {}, {"username": client_id, "password": secret}
            case "post" | "plain":
                return fault, {}, in_form
            case "key" | "replayed":
                return self._signs(client, anew=how == "key")
        return fault, {"authorization": basic(client_id, secret)}, {}

    def _signs(self, client: Client, *, anew: bool) -> tuple[Answer | None, Headers, Fields]:
        signer = client.key or SIGNERS["other"]
        now = int(self.world.now.timestamp())
        made = signer.assertion(client.client_id, AUDIENCE, iat=now, exp=now + 60)
        text = made if anew else self.last_assertion or "e30.e30.e30"
        good = anew and client.key is not None and client.works
        if good:
            self.last_assertion = text
        return None if good else INVALID_CLIENT, {}, assertion_fields(text)

    def _proof(self, kind: str, method: str, path: str, bound: Token | Client | None) -> Proof:
        """A DPoP proof; the natural one is what fits, if one is needed."""
        natural = bound.key if isinstance(bound, Token) else None
        if isinstance(bound, Client) and bound.bound:
            natural = key("a")
        holder = natural if kind == "natural" else key("b" if kind == "b" else "a")
        if holder is None:
            return Proof()
        iat = int(self.world.now.timestamp()) - (61 if kind == "stale" else 0)
        url = AUDIENCE + ("/elsewhere" if kind == "elsewhere" else path)
        token = bound.text if isinstance(bound, Access) else None
        text = holder.proof(method, url, access_token=token, iat=iat)
        if kind == "replayed":
            text = self.last_proof or "e30.e30.e30"
        return Proof(holder, kind in {"natural", "a", "b"}, text)

    def _sent_with(self, proof: Proof) -> Headers:
        """The header of a proof."""
        self.sent_proof = proof.text
        return {"dpop": proof.text} if proof.key else {}

    # --- Tokens ---------------------------------------------------------------------------------

    @step
    def a_client_asks_for_a_token(self, luck: int) -> None:
        """In either dialect, proving itself in any way."""
        self._ask(*self._roll(luck, KIND_NAMES, HOWS, SCOPES, AUDIENCES, PROOFS))

    def _ask(
        self, kind: str, how: str, scope: str, audience: tuple[str, ...], proof_kind: str
    ) -> None:
        client = self.clients[kind]
        fault, headers, fields = self._proves(client, how, plain=True)
        proof = self._proof(proof_kind, "POST", "/token", client)
        headers |= self._sent_with(proof)
        if "username" not in fields:
            fields["grant_type"] = "client_credentials"
        if scope:
            fields["scope"] = scope
        sent = form("/token", fields, headers)
        for each in audience:
            sent = sent.with_field("resource", each)
        if fault is None and not client.takes_a_place(self.world.now):
            fault = TOO_MANY
        fault = fault or model.granted(client, words(scope), audience, proof)
        self._new_tokens(self.world.send(sent), fault, client, scope, audience, proof)

    def _new_tokens(
        self,
        answer: httpx.Response,
        fault: Answer | None,
        client: Client,
        scope: str,
        audience: tuple[str, ...],
        proof: Proof,
    ) -> None:
        self._expect(answer, fault or OK)
        if fault:
            return
        family, body = Family(), answer.json()
        granted = words(scope) or client.scopes
        assert ("refresh_token" in body) is self.issues_refresh
        access = self._access(body, client, granted, audience, proof, family)
        refresh = None
        if self.issues_refresh:
            refresh = self._refresh(
                body["refresh_token"], client, granted, audience, proof.key, family
            )
        self._remember(Issued(access, refresh))

    def _access(
        self,
        body: dict[str, Any],
        client: Client,
        scope: Scope,
        audience: tuple[str, ...],
        proof: Proof,
        family: Family,
    ) -> Access:
        """An access token as it was answered, which must say what the model says."""
        claims = claims_of(body["access_token"])
        assert body["token_type"] == ("DPoP" if proof.key else "bearer")
        assert body["expires_in"] == model.ACCESS_LIFETIME.total_seconds()
        assert words(body["scope"]) == words(claims["scope"]) == scope
        assert claims["client_id"] == client.client_id
        assert claims["roles"] == [client.role]
        aud = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        assert aud == list(audience or (AUDIENCE,))
        assert claims.get("cnf") == ({"jkt": proof.key.jkt} if proof.key else None)
        self.world.witness.secrets.add(body["access_token"])
        return Access(
            f"access{next(self.names)}",
            body["access_token"],
            client,
            client.epoch,
            family,
            scope,
            audience,
            proof.key,
            self.world.now + model.ACCESS_LIFETIME,
            role=client.role,
        )

    def _refresh(
        self,
        text: str,
        client: Client,
        scope: Scope,
        audience: tuple[str, ...],
        bound_to: Any,
        family: Family,
    ) -> Refresh:
        self.world.witness.secrets.add(text)
        expires_at = self.world.now + model.REFRESH_LIFETIME
        name = f"refresh{next(self.names)}"
        return Refresh(
            name, text, client, client.epoch, family, scope, audience, bound_to, expires_at
        )

    def _remember(self, issued: Issued) -> None:
        self.everything[issued.access.client.name.rstrip("0123456789")].append(issued)

    def _tokens(self, kind: str, age: int) -> Issued:
        """What a client got some time ago; where there is nothing yet, it asks for it now."""
        if not self.everything[kind]:
            self._ask(kind, "right", "", (), "natural")
        known = self.everything[kind]
        needs(known)
        return known[max(0, len(known) - 1 - age)]

    def _token(self, kind: str, age: int, about: str) -> Token:
        issued = self._tokens(kind, age)
        return issued.refresh if about == "refresh" and issued.refresh else issued.access

    def _refresh_token(self, kind: str, age: int) -> Refresh:
        token = self._token(kind, age, "refresh")
        needs(isinstance(token, Refresh))
        assert isinstance(token, Refresh)
        return token

    @step
    def a_refresh_token_is_exchanged(self, luck: int) -> None:
        """In either dialect, by its owner or by another client, for as much or for less."""
        self._exchange(
            *self._roll(
                luck, KIND_NAMES, AGES, KIND_NAMES, MOSTLY, EITHER, HOWS, SCOPES, AUDIENCES, PROOFS
            )
        )

    @step
    def a_client_refreshes_on_and_on(self, luck: int) -> None:
        """As it should be done, beginning with less than it may have, and once again at the end."""
        kind, scope, age, *dialects = self._roll(luck, KIND_NAMES, SCOPES, AGES, *[EITHER] * 3)
        self._ask(kind, "right", scope, (), "natural")
        for plain in dialects:
            self._exchange(kind, 0, kind, True, plain, "right", "", (), "natural")
        self._exchange(kind, age, kind, True, False, "right", "", (), "natural")

    def _exchange(
        self,
        kind: str,
        age: int,
        by: str,
        own: bool,
        plain: bool,
        how: str,
        scope: str,
        audience: tuple[str, ...],
        proof_kind: str,
    ) -> None:
        token = self._refresh_token(kind, age)
        client = token.client if own or (plain and not self.requires_auth) else self.clients[by]
        audience = () if plain else audience
        proof = self._proof(proof_kind, "POST", "/refresh" if plain else "/token", token)
        if plain and not self.requires_auth:
            how = "token"
        fault, headers, fields = self._proves(client, how)
        expected = self._exchanged(token, client, fault, scope, audience, proof, plain)
        headers |= self._sent_with(proof)
        fields |= {"refresh_token": token.text, **({"scope": scope} if scope else {})}
        if plain:
            sent = document("/refresh", fields, headers)
        else:
            sent = form("/token", {"grant_type": "refresh_token", **fields}, headers)
        for each in audience:
            sent = sent.with_field("resource", each)
        answer = self.world.send(sent)
        self._expect(answer, expected)
        if expected is OK:
            self._rotated(answer, token, scope, audience, proof)

    def _exchanged(
        self,
        token: Refresh,
        client: Client,
        fault: Answer | None,
        scope: str,
        audience: tuple[str, ...],
        proof: Proof,
        plain: bool,
    ) -> Answer:
        """What an exchange is answered with."""
        now, by_token_alone = self.world.now, plain and not self.requires_auth
        no_grant = Answer(401 if plain else 400, "invalid_grant")
        if fault is not None:
            return fault
        if by_token_alone and not client.works:
            return no_grant
        if not by_token_alone and not client.takes_a_place(now):
            return TOO_MANY
        if proof.is_bad or (client.bound and proof.key is None):
            return BAD_PROOF
        if not model.exchanged(token, client, proof, now, self.grace):
            return no_grant
        wide = model.narrowed(token, words(scope), audience)
        if wide is not None:
            return wide
        return OK if not by_token_alone or client.takes_a_place(now) else TOO_MANY

    def _rotated(
        self,
        answer: httpx.Response,
        token: Refresh,
        scope: str,
        audience: tuple[str, ...],
        proof: Proof,
    ) -> None:
        body, client, family = answer.json(), token.client, token.family
        assert family is not None
        allowed = token.scope & client.scopes
        access = self._access(
            body, client, words(scope) or allowed, audience or token.audience, proof, family
        )
        if token.successor is None:
            token.spent_at = self.world.now
            token.successor = self._refresh(
                body["refresh_token"], client, allowed, token.audience, token.key, family
            )
        assert body["refresh_token"] == token.successor.text
        self._remember(Issued(access, token.successor))

    @step
    def a_client_asks_many_times_at_once(self, luck: int) -> None:
        """Exactly as many are admitted as its limit says."""
        (kind,) = self._roll(luck, KIND_NAMES)
        client = self.clients[kind]
        needs(client.works and not client.bound)
        requests = []
        for _ in range(AT_ONCE):
            _, headers, fields = self._proves(client, "right")
            requests.append(form("/token", {"grant_type": "client_credentials", **fields}, headers))
        admitted = [client.takes_a_place(self.world.now) for _ in requests]
        answers = self.world.send_at_once(requests)
        good = [answer for answer in answers if answer.status_code == 200]
        assert len(good) == sum(admitted)
        for answer in answers:
            fault = None if answer in good else TOO_MANY
            self._new_tokens(answer, fault, client, "", (), Proof())

    @step
    def a_refresh_token_is_exchanged_many_times_at_once(self, luck: int) -> None:
        """One of them succeeds, and the others are reuse: its family ends."""
        kind, age = self._roll(luck, KIND_NAMES, AGES)
        token, now = self._refresh_token(kind, age), self.world.now
        assert token.family is not None
        needs(token.key is None and not token.client.bound and not token.client.limit)
        needs(token.client.works and token.spent_at is None and not self.grace)
        fits = bool(token.scope & token.client.scopes)
        needs(fits and model.narrowed(token, frozenset(), ()) is None)
        requests = []
        for _ in range(AT_ONCE):
            _, headers, fields = self._proves(token.client, "right")
            fields |= {"grant_type": "refresh_token", "refresh_token": token.text}
            requests.append(form("/token", fields, headers))
        lived = token.lives(now)
        answers = self.world.send_at_once(requests)
        good = [answer for answer in answers if answer.status_code == 200]
        assert len(good) == int(lived)
        for answer in answers:
            self._expect(answer, OK if answer in good else Answer(400, "invalid_grant"))
        for answer in good:
            self._rotated(answer, token, "", (), Proof())
            token.family.ended = True

    # --- What tokens are good for ---------------------------------------------------------------

    @step
    def a_route_is_called(self, luck: int) -> None:
        """With an access token, as it is meant to be presented or otherwise."""
        kind, age, path, proof_kind, scheme = self._roll(
            luck, KIND_NAMES, AGES, sorted(ROUTES), PROOFS, SCHEMES
        )
        token = self._tokens(kind, age).access
        sent, expected = self._call(token, path, proof_kind, scheme)
        self._expect(self.world.send(sent), expected)

    def _call(
        self, token: Access, path: str, kind: str = "natural", scheme: str = "natural"
    ) -> tuple[Sent, Answer]:
        if scheme == "natural":
            scheme = "DPoP" if token.key else "Bearer"
        proof = self._proof(kind, "GET", path, token)
        headers = {"authorization": f"{scheme} {token.text}", **self._sent_with(proof)}
        raw = tuple((name.encode(), value.encode()) for name, value in headers.items())
        expected = model.admitted(token, *ROUTES[path], scheme, proof, self.world.now)
        return Sent("GET", path, raw), expected

    @step
    def a_token_is_forged(self, luck: int) -> None:
        """Whatever is changed in it, it is none."""
        kind, change = self._roll(luck, KIND_NAMES, FORGERIES)
        text = self._tokens(kind, 0).access.text
        header, payload, signature = text.split(".")
        other = {"A": "B"}.get(signature[5], "A")
        forged = {
            "claims": ".".join([header, b64(b'{"scope":"admin"}'), signature]),
            "signature": ".".join([header, payload, signature[:5] + other + signature[6:]]),
            "padding": text + "=",
            "none": ".".join([b64(b'{"alg":"none","typ":"at+jwt"}'), payload, ""]),
            "suffix": text + ".",
        }[change]
        for path in ROUTES:
            sent = Sent("GET", path, ((b"authorization", f"Bearer {forged}".encode()),))
            self._expect(self.world.send(sent), INVALID_TOKEN)
        self._expect(
            self.world.send(document("/revoke", {"access_token": forged}, {})), INVALID_TOKEN
        )
        self._expect_introspection(self._asked_by_the_auditor(forged), None)

    @step
    def a_client_introspects(self, luck: int) -> None:
        """It sees its own tokens; a few may see all."""
        kind, age, about, by, own, how = self._roll(
            luck, KIND_NAMES, AGES, ABOUTS, KIND_NAMES, EITHER, HOWS
        )
        token = self._token(kind, age, about)
        self._introspect(token, token.client if own else self.clients[by], how)

    def _introspect(self, token: Token, asker: Client, how: str) -> None:
        fault, headers, fields = self._proves(asker, how)
        if fault is None and not asker.takes_a_place(self.world.now):
            fault = TOO_MANY
        answer = self.world.send(form("/introspect", {"token": token.text, **fields}, headers))
        self._expect(answer, fault or OK)
        if fault is None:
            sees_all = asker.role == "admin" or "introspect" in asker.scopes
            is_seen = sees_all or token.client is asker
            self._expect_introspection(answer, token if is_seen else None)

    @step
    def a_token_introspects(self, luck: int) -> None:
        """An access token of the right scope may see all."""
        kind, age, about, by, proof_kind = self._roll(
            luck, KIND_NAMES, AGES, ABOUTS, KIND_NAMES, PROOFS
        )
        token, asked = self._tokens(by, 0).access, self._token(kind, age, about)
        proof = self._proof(proof_kind, "POST", "/introspect", token)
        scheme = "DPoP" if token.key else "Bearer"
        headers = {"authorization": f"{scheme} {token.text}", **self._sent_with(proof)}
        needs = frozenset({"introspect"})
        expected = model.admitted(token, needs, None, scheme, proof, self.world.now)
        answer = self.world.send(form("/introspect", {"token": asked.text}, headers))
        self._expect(answer, expected)
        if expected is OK:
            self._expect_introspection(answer, asked)

    def _asked_by_the_auditor(self, text: str) -> httpx.Response:
        return self.world.send(self._audit(text))

    def _audit(self, text: str) -> Sent:
        _, headers, _ = self._proves(self.auditor, "right")
        return form("/introspect", {"token": text}, headers)

    def _expect_introspection(self, answer: httpx.Response, token: Token | None) -> None:
        """It is told what lives, and nothing else. RFC 7662 section 2.2."""
        now, body = self.world.now, answer.json()
        lives = token is not None and (
            token.is_active(now) if isinstance(token, Refresh) else token.lives(now)
        )
        if token is None or not lives:
            assert body == {"active": False}, token
            return
        assert body["active"], token
        assert body["client_id"] == token.client.client_id
        scope = token.scope & (token.client.scopes if isinstance(token, Refresh) else token.scope)
        assert words(body["scope"]) == scope
        assert body["exp"] == token.expires_at.timestamp()
        assert body.get("cnf") == ({"jkt": token.key.jkt} if token.key else None)

    @step
    def a_client_is_disabled_for_a_while(self, luck: int) -> None:
        """Its tokens are dead meanwhile, and afterwards too, if the door did it."""
        kind, off_by_hand, on_by_hand, age = self._roll(luck, KIND_NAMES, EITHER, EITHER, AGES)
        needs(self.clients[kind].works)
        for by_hand, change in ((off_by_hand, "disable"), (on_by_hand, "enable")):
            token = self._tokens(kind, age).access
            if by_hand:
                self._type(kind, change)
            else:
                self._change(kind, change)
            for path in ROUTES:
                sent, expected = self._call(token, path)
                self._expect(self.world.send(sent), expected)
            with suppress(NothingToDo):
                self._exchange(kind, 0, kind, True, True, "right", "", (), "natural")

    @step
    def a_stranger_finds_tokens(self, luck: int) -> None:
        """It can neither exchange them, nor end them, nor see what they are."""
        kind, by = self._roll(luck, KIND_NAMES, ["common", "signer", "narrow", "bound"])
        stranger = self.clients[by]
        needs(stranger.works and kind != by)
        self._exchange(kind, 0, by, False, False, "right", "", (), "natural")
        for about in ABOUTS:
            self._revoke(self._token(kind, 0, about), stranger, "right", "")
            self._introspect(self._token(kind, 0, about), stranger, "right")
        self._exchange(kind, 0, kind, True, False, "right", "", (), "natural")

    # --- Revoking -------------------------------------------------------------------------------

    @step
    def a_token_is_revoked_plainly(self, luck: int) -> None:
        """Whoever holds it may end it, if it is called what it is."""
        kind, age, about, crossed = self._roll(luck, KIND_NAMES, AGES, ABOUTS, EITHER)
        token = self._token(kind, age, about)
        about = "refresh" if isinstance(token, Refresh) else "access"
        other = {"access": "refresh", "refresh": "access"}[about]
        member = f"{other if crossed else about}_token"
        answer = self.world.send(document("/revoke", {member: token.text}, {}))
        is_known = not crossed and self.world.now < token.expires_at
        self._expect(answer, OK if is_known else INVALID_TOKEN)
        if is_known:
            self._ends(token)

    @step
    def a_client_revokes(self, luck: int) -> None:
        """It ends its own tokens, and nobody else's."""
        kind, age, about, by, own, how, hint = self._roll(
            luck, KIND_NAMES, AGES, ABOUTS, KIND_NAMES, MOSTLY, HOWS, HINTS
        )
        token = self._token(kind, age, about)
        self._revoke(token, token.client if own else self.clients[by], how, hint)

    def _revoke(self, token: Token, client: Client, how: str, hint: str) -> None:
        fault, headers, fields = self._proves(client, how)
        if fault is None and not client.takes_a_place(self.world.now):
            fault = TOO_MANY
        fields |= {"token": token.text, "token_type_hint": hint}
        answer = self.world.send(form("/revoke", fields, headers))
        self._expect(answer, fault or OK)
        if fault is None:
            assert answer.content == b""
            if client is token.client and self.world.now < token.expires_at:
                self._ends(token)

    @step
    def a_token_is_revoked_by_the_door(self, luck: int) -> None:
        """By the app itself; one that has expired is none any more."""
        kind, age, about = self._roll(luck, KIND_NAMES, AGES, ABOUTS)
        token = self._token(kind, age, about)
        try:
            self.world.run(self.world.server.m2m.revoke(token.text))
        except InvalidToken:
            assert self.world.now >= token.expires_at, token
        else:
            assert self.world.now < token.expires_at, token
            self._ends(token)

    def _ends(self, token: Token) -> None:
        if isinstance(token, Access):
            token.revoked = True
        else:
            assert token.family is not None
            token.family.ended = True

    # --- Attackers ------------------------------------------------------------------------------

    @step
    def nonsense_is_sent(self, luck: int) -> None:
        """It is refused, and changes nothing of what was there."""
        (seed_of_all,) = self._roll(luck, range(2**32))
        dice = Random(seed_of_all)  # noqa: S311
        requests = [nonsense(dice) for _ in range(NONSENSE_AT_ONCE)]
        for answer in self.world.send_at_once(requests):
            said = f"{answer.request.method} {answer.request.url}: {answer.status_code}"
            refused = {304, 400, 401, 404, 405, 413, 422}
            allowed = refused if answer.request.method == "POST" else refused | {200}
            assert answer.status_code in allowed, said

    @step
    def a_request_is_tampered_with(self, luck: int) -> None:
        """In every way there is: what is refused has no effect, and the rest changes nothing."""
        kind, endpoint = self._roll(luck, KIND_NAMES, ENDPOINTS)
        old = self._tokens(kind, 0)
        client = old.access.client
        needs(client.works and client.key is None and not client.bound and not client.limit)
        secret = next(reversed(client.secrets))
        fields, must_fail = {"token": old.access.text}, endpoint in {"/revoke", "refresh"}
        if endpoint == "/token":
            fields = {"grant_type": "client_credentials"}
        elif endpoint == "refresh":
            needs(old.refresh is not None)
            assert old.refresh is not None
            fields = {"grant_type": "refresh_token", "refresh_token": old.refresh.text}
        path = "/token" if endpoint == "refresh" else endpoint
        sent = with_basic(path, client.client_id, secret, **fields)
        tried = [each for each in TAMPERINGS if not (must_fail and each[2] is OK)]
        answers = self.world.send_at_once([tamper(sent) for _, tamper, _ in tried])
        for answer, (name, _, outcome) in zip(answers, tried, strict=True):
            if path == "/revoke" and name in OTHER_TYPES:
                outcome = replace(outcome, status=422)  # no form: that is the other dialect
            self._expect(answer, outcome)
            if endpoint == "/introspect" and outcome is OK:
                self._expect_introspection(answer, old.access)

    # --- The end --------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Whatever was handed out is as alive as the model says, unless the story broke off."""
        if self.is_over:
            return
        everything = [issued for some in self.everything.values() for issued in some]
        calls = [
            self._call(issued.access, path)
            for issued in everything
            for path in ROUTES
            if not issued.access.client.limit
        ]
        answers = self.world.send_at_once([sent for sent, _ in calls])
        for answer, (_, expected) in zip(answers, calls, strict=True):
            self._expect(answer, expected)
        asked: list[Token] = [issued.access for issued in everything]
        asked += [issued.refresh for issued in everything if issued.refresh is not None]
        answers = self.world.send_at_once([self._audit(token.text) for token in asked])
        for answer, token in zip(answers, asked, strict=True):
            self._expect_introspection(answer, token)

    def _expect(self, answer: httpx.Response, expected: Answer) -> None:
        """It is answered as the model says; only what was taken is used up."""
        said = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}"
        self.is_over = True
        assert answer.status_code == expected.status, f"{expected}, not {said}"
        if expected.error and answer.request.method != "HEAD":
            assert answer.json()["error"] == expected.error, f"{expected}, not {said}"
        if expected.status in {401, 403} and expected.error in CHALLENGED:
            assert answer.headers["www-authenticate"].startswith(("Bearer", "DPoP")), said
        self.is_over = False
        if expected is OK and self.sent_proof:
            self.last_proof = self.sent_proof
        self.sent_proof = ""


@pytest.mark.parametrize("number", range(STORIES))
def test_the_server_answers_as_the_model_says(
    number: int, mongo_url: str, database: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever happened before, what lives works, what is dead is refused, and nothing is a 500."""
    with world_on(mongo_url, database, monkeypatch) as world:
        machine = seed(SEED + number)(type("Attacks", (Attacks,), {"world": world}))
        chances = settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink] if SHRINKS else [Phase.generate],
        )
        run_state_machine_as_test(machine, settings=chances)
        world.witness.expect_enough(math.ceil(BY_STORIES / STORIES))
