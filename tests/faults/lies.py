"""An honest run of the model server, and one lie about it at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from tests.faults.checker_rules import window_name
from tests.faults.history import Kind, Operation, Outcome
from tests.faults.model_server import Fate, ModelServer

LIMIT = 5


class Honest(ModelServer):
    """An honest run whose parts are known by name, for lies to be told about."""

    def __init__(self, grace: float = 0.0) -> None:
        super().__init__(grace=grace)
        self.first = self.do(Kind.TOKEN)
        self.second = self.refresh(self.first)
        self.called = self.call(self.second)
        self.asserted = self.do(Kind.ASSERTION, presented=self.made("assertion"))
        self.proved = self.do(Kind.PROOF, presented=self.asserted.jti, proof=self.made("proof"))
        self.garbage = self.do(Kind.OTHER)
        self.bystander = self.do(Kind.TOKEN, "search")

    def refuse(self, operation: Operation, status: int, error: str) -> Operation:
        """Say that an operation was refused, with an audit log that bears it out."""
        self.record("refused", operation.client_id, operation.id)
        return self.forge(operation, **refused(status, error))

    def accept(self, operation: Operation) -> Operation:
        """Say that an operation was OK, and that all that belongs to it was done."""
        received = {}
        if operation.kind in {Kind.TOKEN, Kind.ASSERTION, Kind.REFRESH}:
            received = {"jti": self.made("jti"), "refresh_digest": self.made("digest")}
            self.record("login_success", operation.client_id, operation.id, received["jti"])
            family = self.tokens.get(operation.presented, {}).get("family_id", self.made("family"))
            self.tokens[received["refresh_digest"]] = {"family_id": family}
        return self.forge(operation, outcome=Outcome.OK, status=200, error="", **received)

    def forget(self, event: str, operation: Operation) -> None:
        """Take what speaks of an operation out of the audit log."""
        self.audit = {
            name: record
            for name, record in self.audit.items()
            if (record["event_type"], record["request_id"]) != (event, operation.id)
        }

    def use_up(self) -> list[Operation]:
        """One client asks for twice its limit in one minute."""
        self.limit = LIMIT
        self.now = 20_400.0  # a full minute
        return [self.do(Kind.TOKEN, "mail", before=0.01, pause=0.05) for _ in range(2 * LIMIT)]


#: Tells a lie about an honest run.
Lie: TypeAlias = Callable[[Honest], object]
#: Each with the rule that finds it out, and its name.
LIES: list[tuple[str, str, Lie]] = []


def refused(status: int, error: str) -> dict[str, Any]:
    """What is seen of a refusal."""
    return {
        "outcome": Outcome.REFUSED,
        "status": status,
        "error": error,
        "jti": "",
        "refresh_digest": "",
    }


def lie(rule: str) -> Callable[[Lie], Lie]:
    """Names the rule that finds the lie out."""

    def remember(told: Lie) -> Lie:
        LIES.append((rule, told.__name__, told))
        return told

    return remember


@lie("R1")
def a_refresh_token_redeemed_twice(run: Honest) -> None:
    again = run.refresh(run.first, pause=0.01)
    run.marks.clear()
    run.forget("refresh_token_reuse", again)
    run.accept(again)


@lie("R1")
def a_refresh_token_redeemed_twice_as_clients_alone_know(run: Honest) -> None:
    a_refresh_token_redeemed_twice(run)
    run.tokens[run.first.refresh_digest] = {}  # so that one more of the family can be


@lie("R1")
def a_second_descendant_that_nobody_saw(run: Honest) -> None:
    family = run.tokens[run.first.refresh_digest]["family_id"]
    run.tokens[run.made("digest")] = {"family_id": family}


@lie("R1")
def an_assertion_used_twice(run: Honest) -> None:
    run.accept(run.do(Kind.ASSERTION, presented=run.asserted.presented))


@lie("R1")
def a_proof_used_twice(run: Honest) -> None:
    run.accept(run.do(Kind.PROOF, presented=run.asserted.jti, proof=run.proved.proof))


@lie("R1")
def a_spent_refresh_token_not_on_record(run: Honest) -> None:
    last = run.refresh(run.bystander)
    del run.used[last.presented]
    run.tokens[run.bystander.refresh_digest] = {}  # of no family that it could be missed in


@lie("R1")
def a_used_assertion_not_on_record(run: Honest) -> None:
    run.assertions.clear()


@lie("R1")
def a_used_proof_not_on_record(run: Honest) -> None:
    run.proofs.clear()


@lie("R1")
def a_proof_of_an_unknown_key_not_on_record(run: Honest) -> None:
    run.proofs.clear()
    run.forge(run.proved, jkt="")


@lie("R1")
def a_successor_of_another_family(run: Honest) -> None:
    run.tokens[run.second.refresh_digest] = {"family_id": run.made("family")}


@lie("R2")
def stranded_after_a_lost_answer(run: Honest) -> None:
    run.refresh(run.second, fate=Fate.ANSWER_LOST)
    run.refuse(run.do(Kind.TOKEN), 401, "invalid_client")


@lie("R2")
def a_good_refresh_refused(run: Honest) -> None:
    last = run.refresh(run.second)
    del run.used[last.presented], run.tokens[last.refresh_digest]
    run.refuse(last, 400, "invalid_grant")


@lie("R2")
def a_good_call_refused(run: Honest) -> None:
    run.refuse(run.called, 401, "invalid_token")


@lie("R2")
def a_good_call_forbidden(run: Honest) -> None:
    run.refuse(run.called, 403, "insufficient_scope")


@lie("R2")
def a_good_request_called_malformed(run: Honest) -> None:
    run.refuse(run.bystander, 400, "invalid_request")


@lie("R2")
def a_good_revocation_refused(run: Honest) -> None:
    run.refuse(run.revoke(run.bystander), 401, "invalid_token")


@lie("R2")
def a_refusal_for_a_limit_that_there_is_not(run: Honest) -> None:
    run.forge(run.called, **refused(429, "rate_limit_exceeded"), retry_after="9")
    name = run.record("rate_limit_exceeded", run.called.client_id, run.called.id)
    run.audit[name]["count"] = 1


@lie("R2")
def a_refresh_token_that_was_not_kept(run: Honest) -> None:
    del run.tokens[run.second.refresh_digest]


@lie("R3")
def a_revoked_token_accepted(run: Honest) -> None:
    run.revoke(run.second)
    run.accept(run.call(run.second))


@lie("R3")
def a_revoked_token_accepted_elsewhere_later(run: Honest) -> None:
    run.revoke(run.second)
    run.accept(run.forge(run.call(run.second, pause=500), worker="another"))


@lie("R3")
def a_proof_with_a_revoked_token_accepted(run: Honest) -> None:
    run.revoke(run.asserted)
    proof = run.made("proof")
    run.accept(run.do(Kind.PROOF, presented=run.asserted.jti, proof=proof))
    run.forge(run.history[-1], jkt="", proof="")


@lie("R3")
def a_token_of_a_revoked_family_accepted(run: Honest) -> None:
    run.revoke_family(run.second)
    run.accept(run.call(run.first))


@lie("R3")
def a_refresh_token_of_a_revoked_family_accepted(run: Honest) -> None:
    run.revoke_family(run.first)
    last = run.accept(run.refresh(run.second))
    run.used[last.presented] = dict(run.tokens[last.refresh_digest])


@lie("R3")
def a_dead_token_that_lives_again(run: Honest) -> None:
    run.revoke(run.second, fate=Fate.ANSWER_LOST)
    run.call(run.second)
    run.accept(run.call(run.second))


@lie("R3")
def a_revocation_that_was_not_kept(run: Honest) -> None:
    run.revoke(run.second)
    run.marks.clear()


@lie("R3")
def a_revocation_of_a_family_that_was_not_kept(run: Honest) -> None:
    run.revoke_family(run.second)
    run.marks.clear()


@lie("R4")
def a_token_without_its_record(run: Honest) -> None:
    run.forget("login_success", run.first)


@lie("R4")
def a_refresh_without_its_record(run: Honest) -> None:
    run.forget("token_refreshed", run.second)


@lie("R4")
def a_refusal_without_its_record(run: Honest) -> None:
    run.forget("refused", run.garbage)


@lie("R4")
def a_forbidden_call_without_its_record(run: Honest) -> None:
    run.forget("refused", run.garbage)
    run.forge(run.garbage, **refused(403, "insufficient_scope"))


@lie("R4")
def two_records_of_one_jti(run: Honest) -> None:
    run.record("login_success", "billing", run.made("request"), run.first.jti)


@lie("R4")
def a_refusal_over_the_limit_not_counted(run: Honest) -> None:
    run.use_up()
    for record in run.audit.values():
        if "count" in record:
            record["count"] -= 1


@lie("R4")
def a_refusal_over_the_limit_counted_for_another(run: Honest) -> None:
    run.use_up()
    for record in run.audit.values():
        if "count" in record:
            record["client_id"] = "search"


@lie("R5")
def one_more_admitted_than_the_limit(run: Honest) -> None:
    run.accept(run.use_up()[-1])


@lie("R5")
def one_less_admitted_than_the_limit(run: Honest) -> None:
    first = run.use_up()[0]
    run.forge(first, **refused(429, "rate_limit_exceeded"), retry_after="9")
    for record in run.audit.values():
        if "count" in record:
            record["count"] += 1


@lie("R5")
def an_admission_that_was_not_counted(run: Honest) -> None:
    run.use_up()
    run.counts[window_name("mail", "127.0.0.1", run.now)] = LIMIT - 1


@lie("R6")
def a_token_accepted_after_reuse(run: Honest) -> None:
    run.refresh(run.first)
    run.accept(run.call(run.second))


@lie("R6")
def a_successor_accepted_after_reuse(run: Honest) -> None:
    run.refresh(run.first)
    last = run.accept(run.refresh(run.second))
    run.used[last.presented] = dict(run.tokens[last.refresh_digest])


@lie("R6")
def a_reuse_whose_first_answer_was_lost(run: Honest) -> None:
    run.refresh(run.second, fate=Fate.ANSWER_LOST)
    run.refresh(run.second)
    run.accept(run.call(run.second))


@lie("R6")
def a_dead_family_that_was_not_kept(run: Honest) -> None:
    run.refresh(run.first)
    run.marks.clear()


@lie("R7")
def one_jti_for_two(run: Honest) -> None:
    run.forget("login_success", run.bystander)
    run.forge(run.bystander, jti=run.first.jti)


@lie("R7")
def one_refresh_token_for_two(run: Honest) -> None:
    run.forge(run.bystander, refresh_digest=run.asserted.refresh_digest)


@lie("R7")
def a_token_that_another_asked_for(run: Honest) -> None:
    mine, others = run.asserted, run.bystander
    for name, record in run.audit.items():
        if record["jti"] == mine.jti:
            run.audit[name] = record | {"client_id": others.client_id}


@lie("R7")
def one_request_id_for_two(run: Honest) -> None:
    run.forge(run.called, id=run.garbage.id)


@lie("R7")
def two_tokens_for_one_request(run: Honest) -> None:
    run.record("login_success", "billing", run.first.id, run.made("jti"))


@lie("R8")
def an_answer_of_500(run: Honest) -> None:
    run.forge(run.called, **refused(500, ""))


@lie("R8")
def an_undocumented_status(run: Honest) -> None:
    run.forge(run.garbage, **refused(418, "invalid_request"))


@lie("R8")
def unavailable_without_a_time_to_come_back(run: Honest) -> None:
    run.forge(run.called, **refused(503, "temporarily_unavailable"))


@lie("R8")
def unavailable_without_its_code(run: Honest) -> None:
    run.forge(run.called, **refused(503, "server_error"), retry_after="1")


@lie("R8")
def an_answer_after_six_seconds(run: Honest) -> None:
    run.forge(run.bystander, end=run.bystander.start + 6)


@lie("R8")
def garbage_that_waits_for_six_seconds(run: Honest) -> None:
    run.forge(run.garbage, end=run.garbage.start + 6)


@lie("R8")
def garbage_unavailable_without_a_time_to_come_back(run: Honest) -> None:
    run.forge(run.garbage, **refused(503, "temporarily_unavailable"))


@lie("R8")
def no_answer_at_all_for_ten_seconds(run: Honest) -> None:
    run.forge(run.bystander, end=run.bystander.start + 10, outcome=Outcome.UNKNOWN, status=None)


@lie("R9")
def a_disabled_client_that_logs_in(run: Honest) -> None:
    run.do(Kind.DISABLE)
    run.accept(run.do(Kind.TOKEN))


@lie("R9")
def a_token_of_a_disabled_client_accepted(run: Honest) -> None:
    run.do(Kind.DISABLE)
    called = run.accept(run.call(run.second))
    run.forge(called, client_id="")


@lie("R9")
def a_disabled_client_that_refreshes(run: Honest) -> None:
    run.do(Kind.DISABLE)
    last = run.accept(run.refresh(run.second))
    run.used[last.presented] = dict(run.tokens[last.refresh_digest])


@lie("R9")
def a_disabling_that_was_not_kept(run: Honest) -> None:
    run.do(Kind.DISABLE)
    run.disabled.clear()
