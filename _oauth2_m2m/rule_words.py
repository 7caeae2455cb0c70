"""Each rule in words, for the operator: what it asks, and what would have satisfied it.

In a remedy, `{had}` and its like are facts of the refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from _oauth2_m2m.rules import Facts, Flow, Rule

#: What each rule asks.
SAYS: Mapping[Rule, str] = {
    Rule.REQUEST: "the request is well-formed, and arrived in time",
    Rule.PROFILE: "the profile knows this way of asking",
    Rule.CREDENTIALS: "it presents credentials that can be read, in one way only",
    Rule.FAILURE_LIMIT: "few attempts have failed from this address in this minute",
    Rule.CLIENT_KNOWN: "the client is registered",
    Rule.CLIENT_READABLE: "the client's document can be read",
    Rule.CLIENT_ENABLED: "the client is enabled",
    Rule.CLIENT_NETWORK: "the client may come from this address",
    Rule.CLIENT_METHOD: "the client may prove in this way who it is",
    Rule.SECRET_PATIENCE: "there is room for the slow comparison of a typed secret",
    Rule.SECRET_RIGHT: "the secret is one of the client's",
    Rule.SECRET_LIVE: "that secret has not ended",
    Rule.CLIENT_KEYS: "the client's public keys are at hand",
    Rule.ASSERTION_SIGNATURE: "the assertion is signed by one of the client's keys",
    Rule.ASSERTION_CLAIMS: "the assertion is the client's, for this server, and for now",
    Rule.ASSERTION_UNUSED: "the assertion was not used before",
    Rule.BUDGET: "the client has requests left in this minute, hour and day",
    Rule.PROOF_SENT: "a DPoP proof is sent",
    Rule.PROOF_GOOD: "the DPoP proof fits this request",
    Rule.PROOF_UNUSED: "the DPoP proof was not used before",
    Rule.PROOF_NONCE: "the DPoP proof holds a fresh nonce",
    Rule.GRANT_OFFERED: "the grant is offered here",
    Rule.GRANT_ALLOWED: "the client may use the grant",
    Rule.PARAMETERS: "no parameter of the grant is missing",
    Rule.RESOURCE: "the resource is one that the client may ask for",
    Rule.SCOPE: "the scope is allowed",
    Rule.ROLE: "the token carries the role",
    Rule.REFRESH_KNOWN: "the refresh token is one that was issued here",
    Rule.REFRESH_OWN: "the refresh token is this client's",
    Rule.REFRESH_NOT_REVOKED: "neither it nor its family is revoked",
    Rule.REFRESH_UNSPENT: "the refresh token was not used before",
    Rule.REFRESH_LIVE: "the refresh token has not expired",
    Rule.REFRESH_EPOCH: "the client's tokens were not revoked since it was issued",
    Rule.REFRESH_KEY: "the DPoP proof is made with the key that it is bound to",
    Rule.TOKEN_SENT: "an access token is sent, in one header Authorization",
    Rule.TOKEN_READABLE: "it is a well-formed JWT",
    Rule.TOKEN_TYPE: "it is an access token",
    Rule.TOKEN_KEY: "it names a key of this server",
    Rule.TOKEN_SIGNATURE: "its signature holds",
    Rule.TOKEN_ISSUER: "it is from this issuer",
    Rule.TOKEN_LIVE: "it has not expired",
    Rule.TOKEN_CLAIMS: "it has all claims, each of its type",
    Rule.TOKEN_AUDIENCE: "it is meant for this audience",
    Rule.TOKEN_SCHEME: "it is presented as what it is, bound or bearer",
    Rule.TOKEN_CLIENT: "its client is enabled, and still the one that it was issued to",
    Rule.TOKEN_NOT_REVOKED: "it is not revoked",
    Rule.SERVICE: "the database answers",
}

_NEW_ASSERTION = "a new assertion for each request, with a jti of its own"
_LOG_IN = "a new login: the family of this refresh token is dead"
_NEW_TOKEN = "a new access token"

#: What would have satisfied each rule.
_REMEDIES: Mapping[Rule, str] = {
    Rule.REQUEST: "the request as the reason says",
    Rule.PROFILE: "grant_type=client_credentials with private_key_jwt, as PROFILE fapi2 asks",
    Rule.CREDENTIALS: "an id and a secret by Basic or in the form, or an assertion; one of them",
    Rule.FAILURE_LIMIT: "the next minute; {wanted} attempts a minute may fail. Look for what came "
    "before: those refusals have ids of their own",
    Rule.CLIENT_KNOWN: "an id that is registered: oauth2-m2m clients list",
    Rule.CLIENT_READABLE: "a document in `clients` whose fields are as docs/storage.md says",
    Rule.CLIENT_ENABLED: "the client enabled again: oauth2-m2m clients enable",
    Rule.CLIENT_NETWORK: "an address within {wanted}",
    Rule.CLIENT_METHOD: "one of {wanted}; it used {had}",
    Rule.SECRET_PATIENCE: "a secret that was made here, which is compared at once; or fewer "
    "attempts at a time",
    Rule.SECRET_RIGHT: "one of the client's secrets; {compared} were compared",
    Rule.SECRET_LIVE: "another of the client's secrets; this one ended at {expired_at}",
    Rule.CLIENT_KEYS: "an answer from {wanted}, as the reason says",
    Rule.ASSERTION_SIGNATURE: "a signature by a key in the client's jwks, or at its jwks_uri, "
    "whose kid the assertion names",
    Rule.ASSERTION_CLAIMS: "an assertion whose iss and sub are the client, whose aud is this "
    "server, and which ends within 5 minutes",
    Rule.ASSERTION_UNUSED: _NEW_ASSERTION,
    Rule.BUDGET: "the next {period}, or a greater limit than {wanted}: max_requests_per_{period} "
    "of the client, or the setting of that name",
    Rule.PROOF_SENT: "one header DPoP with a proof by the client's key",
    Rule.PROOF_GOOD: "a proof for this method and address, made just now, as the reason says",
    Rule.PROOF_UNUSED: "a new proof for each request",
    Rule.PROOF_NONCE: "a proof with the nonce of the answer's header DPoP-Nonce",
    Rule.GRANT_OFFERED: "one of {wanted}; it asked for {had}",
    Rule.GRANT_ALLOWED: "one of the client's grants, {wanted}; it asked for {had}",
    Rule.PARAMETERS: "the parameter that the reason names",
    Rule.RESOURCE: "no other resources than {wanted}; it asked for {had}",
    Rule.SCOPE: "no more than {wanted}; it asked for {had}",
    Rule.ROLE: "a token with the role {wanted}; this one has {had}",
    Rule.REFRESH_KNOWN: "the refresh token of the last answer, whole; unknown ones may also be "
    "long expired",
    Rule.REFRESH_OWN: "the credentials of {wanted}, whose refresh token it is",
    Rule.REFRESH_NOT_REVOKED: _LOG_IN,
    Rule.REFRESH_UNSPENT: "the successor that came with the answer at {spent_at}. Whoever used it "
    "again, the family is dead now, so log in anew; REFRESH_GRACE_SECONDS allows for lost answers",
    Rule.REFRESH_LIVE: "a new login; this refresh token expired at {expired_at}",
    Rule.REFRESH_EPOCH: "a new login; the client was disabled, or its tokens were revoked, since "
    "{issued_at}",
    Rule.REFRESH_KEY: "a DPoP proof by the key {wanted}",
    Rule.TOKEN_SENT: "the header Authorization: Bearer with an access token, once",
    Rule.TOKEN_READABLE: "an access token, whole and unchanged",
    Rule.TOKEN_TYPE: "an access token, not a JWT of another kind",
    Rule.TOKEN_KEY: "a token signed by a key that is in use: oauth2-m2m keys list",
    Rule.TOKEN_SIGNATURE: "a token that nobody has changed, signed with this server's key",
    Rule.TOKEN_ISSUER: "a token from {wanted}; this one is from {had}",
    Rule.TOKEN_LIVE: f"{_NEW_TOKEN}; this one expired at {{expired_at}}",
    Rule.TOKEN_CLAIMS: "a token of this server; the reason names the claim",
    Rule.TOKEN_AUDIENCE: "a token for {wanted}; this one is for {had}",
    Rule.TOKEN_SCHEME: "the scheme {wanted}; it used {had}",
    Rule.TOKEN_CLIENT: f"{_NEW_TOKEN} of an enabled client",
    Rule.TOKEN_NOT_REVOKED: _NEW_TOKEN,
    Rule.SERVICE: "the same request, a little later",
}

#: The same, where a guarded route means something else by it.
_AT_ROUTES: Mapping[Rule, str] = {
    Rule.SCOPE: "a token with the scope {wanted}; this one has {had}",
}


def remedy_of(rule: Rule, flow: Flow, facts: Facts) -> str:
    """What would have satisfied a rule."""
    words = _AT_ROUTES.get(rule) if flow is Flow.ROUTE else None
    return (words or _REMEDIES[rule]).format_map(_Known(facts))


def found_of(facts: Facts) -> str:
    """Facts in words, such as `had: read; wanted: admin`."""
    return "; ".join(
        f"{name.replace('_', ' ')}: {value or 'nothing'}" for name, value in facts.items()
    )


class _Known(dict[str, Any]):
    """Facts by name; what is not known is left open."""

    def __missing__(self, name: str) -> str:
        return "..."
