"""`m2m.explain`: which rule a refusal broke, what was had and wanted, what would have passed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from pymongo.database import Database

from _oauth2_m2m.explaining import Explanation, Outcome
from _oauth2_m2m.rules import Flow, Rule
from oauth2_m2m import RefusalNotFound
from tests.assertions import es256_key, fields, jwks
from tests.conformance.conftest import Start
from tests.expectations import early_in_the_minute, wording
from tests.machine import Machine, new_machine, resigned, secret_of, type_client
from tests.proofs import key
from tests.server import Server

ISSUER = "http://localhost:8000"
GRANT = {"grant_type": "client_credentials"}

#: Brings a refusal about, of the client `billing`.
Mishap = Callable[[Server, Machine, Database[Any]], Awaitable[httpx.Response]]


async def unknown(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    await server.m2m.clients.remove("billing")
    return await machine.ask_token()


async def disabled(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    await server.m2m.clients.disable("billing")
    return await machine.ask_token()


async def malformed(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    change(database, scopes="read")
    return await machine.ask_token()


async def elsewhere(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    change(database, allowed_networks=["203.0.113.0/24"])
    return await machine.ask_token()


async def wrong_method(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    change(database, token_endpoint_auth_methods=["client_secret_post"])
    return await machine.ask_token()


async def wrong_secret(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.using(client_secret="wrong", method="plain").ask_token()


async def no_secret(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.http.post("/token", data={**GRANT, "client_id": "billing"})


async def expired(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    await server.m2m.clients.rotate_secret("billing", overlap=timedelta(days=1))
    change(database, **{"secrets.0.expires_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)})
    change(database, **{"secrets.0.id": "first", "secrets.0.label": "old laptop"})
    return await machine.ask_token()


async def wrong_grant(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    change(database, grant_types=["refresh_token"])
    return await machine.ask_token()


async def made_up_grant(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.ask_token(grant_type="implicit")


async def too_much(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.ask_token("read sudo")


async def other_resource(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.ask_token(resource="https://other.example/")


async def bad_proof(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    machine.http.headers["DPoP"] = key("holder").proof("GET", f"{ISSUER}/token")
    return await machine.ask_token()


async def no_refresh_token(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.post("/token", grant_type="refresh_token")


async def unknown_refresh(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.ask_refresh("m2mr_unknown")


async def others_refresh(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    other = await new_machine(server, client_id="other")
    return await machine.ask_refresh(await other.get_token())


async def revoked_refresh(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    tokens = await machine.get_token()
    await machine.revoke(tokens.refresh)
    return await machine.ask_refresh(tokens)


async def spent_refresh(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    tokens = await machine.get_token()
    await machine.refresh(tokens)
    return await machine.ask_refresh_plainly(tokens)


async def old_refresh(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    tokens = await machine.get_token()
    ended = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    database["tokens"].update_many({}, {"$set": {"expires_at": ended}})
    return await machine.ask_refresh_plainly(tokens)


async def disabled_refresh(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    tokens = await machine.get_token()
    change(database, disabled=True)
    return await machine.ask_refresh_plainly(tokens)


async def nothing_sent(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.http.post("/refresh", json={})


async def no_token_to_judge(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.post("/introspect")


async def garbage_to_revoke(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.revoke_plainly(access_token="garbage")


async def garbage_refresh_to_revoke(
    server: Server, machine: Machine, database: Database[Any]
) -> httpx.Response:
    return await machine.revoke_plainly(refresh_token="garbage")


async def no_token(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.http.get("/protected")


async def garbage(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.call("garbage")


async def forged(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.call(resigned((await machine.get_token()).access, "another key"))


async def dead_token(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    tokens = await machine.get_token()
    await server.m2m.clients.disable("billing")
    return await machine.call(tokens)


async def revoked(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    tokens = await machine.get_token()
    await machine.revoke(tokens.access)
    return await machine.call(tokens)


async def no_scope(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    return await machine.call(await machine.get_token("write"))


async def no_role(server: Server, machine: Machine, database: Database[Any]) -> httpx.Response:
    change(database, scopes=["read", "admin"])
    return await machine.call(await machine.get_token("admin"), "/admin-only")


def change(database: Database[Any], **fields_of_it: Any) -> None:
    """Change the client by hand."""
    database["clients"].update_one({"client_id": "billing"}, {"$set": fields_of_it})


AT = "2026-01-02T03:04:05Z"
#: What each mishap breaks, and words of what was found.
CASES: dict[Mishap, tuple[Flow, Rule, str]] = {
    unknown: (Flow.TOKEN, Rule.CLIENT_KNOWN, ""),
    disabled: (Flow.TOKEN, Rule.CLIENT_ENABLED, ""),
    malformed: (Flow.TOKEN, Rule.CLIENT_READABLE, ""),
    elsewhere: (Flow.TOKEN, Rule.CLIENT_NETWORK, "wanted: 203.0.113.0/24"),
    wrong_method: (Flow.TOKEN, Rule.CLIENT_METHOD, "wanted: client_secret_post"),
    wrong_secret: (Flow.TOKEN, Rule.SECRET_RIGHT, "compared: 1"),
    no_secret: (Flow.TOKEN, Rule.CREDENTIALS, ""),
    expired: (Flow.TOKEN, Rule.SECRET_LIVE, f"expired at: {AT}"),
    wrong_grant: (Flow.TOKEN, Rule.GRANT_ALLOWED, "had: client_credentials; wanted: refresh_token"),
    made_up_grant: (Flow.TOKEN, Rule.GRANT_OFFERED, "had: implicit"),
    too_much: (Flow.TOKEN, Rule.SCOPE, "had: read sudo; wanted: read write"),
    other_resource: (Flow.TOKEN, Rule.RESOURCE, "had: https://other.example/"),
    bad_proof: (Flow.TOKEN, Rule.PROOF_GOOD, ""),
    no_refresh_token: (Flow.EXCHANGE, Rule.PARAMETERS, ""),
    unknown_refresh: (Flow.EXCHANGE, Rule.REFRESH_KNOWN, ""),
    others_refresh: (Flow.EXCHANGE, Rule.REFRESH_OWN, "had: billing; wanted: other"),
    revoked_refresh: (Flow.EXCHANGE, Rule.REFRESH_NOT_REVOKED, "family: "),
    spent_refresh: (Flow.REFRESH, Rule.REFRESH_UNSPENT, "spent at: 20"),
    old_refresh: (Flow.REFRESH, Rule.REFRESH_LIVE, f"expired at: {AT}"),
    disabled_refresh: (Flow.REFRESH, Rule.CLIENT_ENABLED, ""),
    nothing_sent: (Flow.REFRESH, Rule.REQUEST, ""),
    no_token_to_judge: (Flow.INTROSPECT, Rule.PARAMETERS, ""),
    garbage_to_revoke: (Flow.REVOKE_HELD, Rule.TOKEN_READABLE, ""),
    garbage_refresh_to_revoke: (Flow.REVOKE_REFRESH, Rule.REFRESH_KNOWN, ""),
    no_token: (Flow.ROUTE, Rule.TOKEN_SENT, ""),
    garbage: (Flow.ROUTE, Rule.TOKEN_READABLE, ""),
    forged: (Flow.ROUTE, Rule.TOKEN_SIGNATURE, ""),
    dead_token: (Flow.ROUTE, Rule.TOKEN_CLIENT, ""),
    revoked: (Flow.ROUTE, Rule.TOKEN_NOT_REVOKED, ""),
    no_scope: (Flow.ROUTE, Rule.SCOPE, "had: write; wanted: read"),
    no_role: (Flow.ROUTE, Rule.ROLE, "had: user; wanted: admin"),
}


def matched(explanation: Explanation) -> str:
    """Which of the client's secrets was right."""
    (step,) = [step for step in explanation.steps if step.rule is Rule.SECRET_RIGHT]
    assert step.outcome is Outcome.PASSED
    return step.found


async def explained(server: Server, response: httpx.Response) -> Explanation:
    """What the operator is told of a refusal."""
    return await server.m2m.explain(response.headers["x-error-id"])


@pytest.fixture
async def billing(server: Server) -> Machine:
    """A client whose name is known."""
    return await new_machine(server, client_id="billing")


@pytest.mark.parametrize("mishap", CASES, ids=lambda mishap: mishap.__name__)
async def test_the_rule_that_failed_is_named(
    server: Server, billing: Machine, database: Database[Any], mishap: Mishap
) -> None:
    """With what was had and wanted; those before it passed, those after it were never asked."""
    response = await mishap(server, billing, database)
    assert response.is_error
    explanation = await explained(server, response)
    flow, rule, found = CASES[mishap]
    outcomes = [step.outcome for step in explanation.steps]
    (failed,) = [step for step in explanation.steps if step.outcome is Outcome.FAILED]
    place = explanation.steps.index(failed)
    assert (explanation.flow, failed.rule) == (flow, rule)
    assert set(outcomes[:place]) <= {Outcome.PASSED}
    assert set(outcomes[place + 1 :]) <= {Outcome.NOT_REACHED}
    assert failed.says
    assert found in failed.found
    assert explanation.remedy
    assert "..." not in explanation.remedy
    assert explanation.error_id == response.json()["error_id"]
    route = "/admin-only" if mishap is no_role else "/protected"
    assert explanation.route == (f"GET {route}" if flow is Flow.ROUTE else None)


async def test_a_signed_client_is_explained_by_its_signature(server: Server) -> None:
    """Who signs for itself is asked other rules than who sends a secret."""
    signer = es256_key("signer")
    await server.m2m.clients.register("signer", scopes=["read"], jwks=jwks(signer))
    used = signer.assertion("signer", ISSUER)
    cases = [
        (es256_key("stranger").assertion("signer", ISSUER), Rule.ASSERTION_SIGNATURE),
        (signer.assertion("signer", "https://other.example"), Rule.ASSERTION_CLAIMS),
        (signer.assertion("signer", ISSUER, exp=1), Rule.ASSERTION_CLAIMS),
        (used, None),
        (used, Rule.ASSERTION_UNUSED),
        ("garbage", Rule.CREDENTIALS),
    ]
    async with server.http() as http:
        for assertion, rule in cases:
            response = await http.post("/token", data=fields(assertion, **GRANT))
            if rule is None:
                assert response.status_code == 200
                continue
            explanation = await explained(server, response)
            (failed,) = [s for s in explanation.steps if s.outcome is Outcome.FAILED]
            assert failed.rule is rule
            if rule is not Rule.CREDENTIALS:
                assert explanation.method == "private_key_jwt"
                assert Rule.SECRET_RIGHT not in [step.rule for step in explanation.steps]


async def test_a_full_window_is_explained(start: Start) -> None:
    """As a client's budget, with its count, or as failures of an address."""
    server = await start(MAX_REQUESTS_PER_MINUTE=1)
    machine = await new_machine(server, client_id="billing")
    await early_in_the_minute()
    over = [await machine.ask_token() for _ in range(4)][-1]
    failed = [await machine.using(client_secret="wrong").ask_token() for _ in range(3)][-1]
    for response, rule, count in ((over, Rule.BUDGET, 3), (failed, Rule.FAILURE_LIMIT, 2)):
        explanation = await explained(server, response)
        (step,) = [s for s in explanation.steps if s.outcome is Outcome.FAILED]
        assert (step.rule, step.found, explanation.count) == (
            rule,
            "wanted: 1; period: minute",
            count,
        )


async def test_a_quota_that_is_used_up_is_explained(start: Start) -> None:
    """By the window that refuses, and what would have to be greater."""
    server = await start(MAX_REQUESTS_PER_DAY=1)
    machine = await new_machine(server, client_id="billing", max_requests_per_hour=1)
    for refused in [await machine.ask_token() for _ in range(3)][1:]:
        explanation = await explained(server, refused)
        (step,) = [s for s in explanation.steps if s.outcome is Outcome.FAILED]
        assert (step.rule, step.found) == (Rule.BUDGET, "wanted: 1; period: day")
        assert "the next day" in str(explanation.remedy)
        assert "max_requests_per_day" in str(explanation.remedy)
        assert explanation.count == 2


async def test_what_happened_since_is_told(
    server: Server, billing: Machine, database: Database[Any]
) -> None:
    """An operator who mends a thing sees it beside the refusal that it mends."""
    tokens = await billing.get_token()
    await billing.revoke(tokens.access)
    await server.m2m.clients.disable("billing")
    response = await billing.ask_token()
    before = await explained(server, response)
    assert [change.event for change in before.before] == [
        "client_created", "token_revoked", "client_disabled",
    ]  # fmt: skip
    assert before.since == ()
    assert before.now == ("the client is disabled",)
    await server.m2m.clients.enable("billing")
    await server.m2m.clients.rotate_secret("billing")
    after = await explained(server, response)
    assert [change.event for change in after.since] == ["client_updated", "secret_rotated"]
    assert after.now == ("the client is enabled",)
    await server.m2m.clients.remove("billing")
    assert (await explained(server, response)).now == ("the client is not registered",)


async def test_the_clients_secrets_are_named_and_not_shown(
    server: Server, billing: Machine, database: Database[Any]
) -> None:
    """Which of them ended and which are good, by id and label; neither they nor their digests."""
    response = await expired(server, billing, database)
    explanation = await explained(server, response)
    assert matched(explanation) == "first (old laptop)"
    assert [line for line in explanation.now if "first (old laptop) ended at 2026-01-02" in line]
    assert [line for line in explanation.now if "does not end" in line]
    assert billing.client_secret not in str(explanation)
    assert "sha256$" not in str(explanation)


async def test_the_secret_that_was_right_is_named(server: Server, billing: Machine) -> None:
    """Also where something else was refused afterwards."""
    (secret,) = (await server.m2m.clients.get("billing")).secrets
    assert matched(await explained(server, await billing.ask_token("sudo"))) == secret.id


async def test_a_secret_that_ended_is_refused_like_any_wrong_one(
    server: Server, billing: Machine, database: Database[Any]
) -> None:
    """The caller is told no more than before, also when a typed secret was just seen to be good."""
    answer = wording(await billing.using(client_secret="wrong").ask_token())
    assert wording(await expired(server, billing, database)) == answer
    typed = type_client(server, database, "typed", "typed by a person")
    assert (await typed.ask_token()).status_code == 200
    ended = {"id": "t", "expires_at": datetime(2026, 1, 1, tzinfo=UTC)}
    stored = database["clients"].find_one({"client_id": "typed"})
    assert stored is not None
    database["clients"].update_one(
        {"client_id": "typed"},
        {
            "$set": {"secrets": [{**ended, "secret": stored["client_secret"]}]},
            "$unset": {"client_secret": ""},
        },
    )
    refused = await typed.ask_token()
    assert wording(refused) == answer
    assert matched(await explained(server, refused)) == "t"


async def test_a_secret_that_is_live_beside_its_ended_copy_is_good(
    server: Server, billing: Machine, database: Database[Any]
) -> None:
    """The same secret twice, once ended: it is the live one that counts."""
    registered = await server.m2m.clients.rotate_secret("billing")
    live = database["clients"].find_one({"client_id": "billing"})
    assert live is not None
    copy = {"id": "copy", "secret": live["client_secret"], "expires_at": datetime(2026, 1, 1)}
    change(database, secrets=[copy])
    machine = billing.using(client_secret=secret_of(registered))
    assert (await machine.ask_token()).status_code == 200


@pytest.mark.parametrize("error_id", ["", "x", "0" * 20, "$ne", "0" * 10_000], ids=len)
async def test_what_nobody_was_given_is_not_found(server: Server, error_id: str) -> None:
    """The error says where else to look."""
    with pytest.raises(RefusalNotFound, match="503"):
        await server.m2m.explain(error_id)
