"""`oauth2-m2m clients`: the machines that may ask for tokens."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from _oauth2_m2m.cli.output import (
    DryRun,
    Json,
    Yes,
    confirm,
    print_json,
    report,
    say,
    show,
    show_all,
    words,
)
from _oauth2_m2m.cli.running import Exit, ending, run
from _oauth2_m2m.cli.secrets import ClientId, EndTokens, handed_out, members
from _oauth2_m2m.client_changes import FIELDS, ClientChange, ClientFields, in_words
from _oauth2_m2m.client_documents import Client, RegisteredClient, client_from
from _oauth2_m2m.client_files import LARGEST_FILE_BYTES, members_of, text_of, wanted_from
from _oauth2_m2m.client_secrets import SecretInfo
from _oauth2_m2m.client_usage import Use, Used
from _oauth2_m2m.least_privilege import Superfluous, superfluous
from _oauth2_m2m.services import Services

app = typer.Typer(help="The machines that may ask for tokens.", no_args_is_help=True)

Words = list[str] | None
_MARKS = {"create": "+", "update": "~", "disable": "!", "enable": "!", "remove": "-"}


def _file(path: Path) -> str:
    """The text of a file, `-` for what is piped in."""
    with sys.stdin.buffer if str(path) == "-" else path.open("rb") as stream:
        content = stream.read(LARGEST_FILE_BYTES + 1)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise typer.BadParameter("the file must be UTF-8") from None


def _jwks(path: str) -> Mapping[str, Any]:
    """A JWK Set in a file."""
    try:
        keys = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:
        raise typer.BadParameter(f"{path} holds no JSON: {type(fault).__name__}") from None
    if not isinstance(keys, dict):
        raise typer.BadParameter(f'{path} must hold {{"keys": [...]}}')
    return keys


Scope = Annotated[Words, typer.Option("--scope", help="A scope that it may ask for; repeat it.")]
Role = Annotated[str | None, typer.Option(help="The role that its tokens carry.")]
Name = Annotated[str | None, typer.Option(help="What people call it.")]
Minutes = Annotated[
    int | None, typer.Option("--access-token-minutes", help="Its tokens' own lifetime.")
]
Limit = Annotated[
    int | None, typer.Option("--max-requests-per-minute", help="Its own limit; 0 for none.")
]
HourlyQuota = Annotated[
    int | None,
    typer.Option("--max-requests-per-hour", help="Its own quota, over all addresses; 0 for none."),
]
DailyQuota = Annotated[
    int | None,
    typer.Option("--max-requests-per-day", help="Its own quota, over all addresses; 0 for none."),
]
Network = Annotated[
    Words, typer.Option("--network", help="Where it may come from, such as 10.0.0.0/8; repeat it.")
]
Grant = Annotated[Words, typer.Option("--grant", help="A grant that it may use; repeat it.")]
Refresh = Annotated[
    bool | None, typer.Option("--refresh-tokens/--no-refresh-tokens", help="Its own choice.")
]
Jwks = Annotated[
    dict[str, Any] | None,
    typer.Option("--jwks", parser=_jwks, metavar="FILE", help="Its public keys, a JWK Set."),
]
JwksUri = Annotated[str | None, typer.Option("--jwks-uri", help="Where it publishes its keys.")]
Method = Annotated[
    Words, typer.Option("--auth-method", help="How it may prove who it is; repeat it.")
]
Audience = Annotated[
    Words, typer.Option("--audience", help="A resource that it may ask for; repeat it.")
]
Dpop = Annotated[
    bool | None, typer.Option("--dpop/--no-dpop", help="Whether its tokens must be bound.")
]


def _given(arguments: Mapping[str, Any]) -> ClientFields:
    """The fields among a command's arguments that were named; others are `None` or empty."""
    given: Any = {name: arguments[name] for name in FIELDS if arguments[name] not in (None, [])}
    fields: ClientFields = given
    return fields


@app.command()
def create(
    client_id: Annotated[
        str | None, typer.Argument(help="Its id; made if there is none.", metavar="[CLIENT]")
    ] = None,
    scopes: Scope = None,
    role: Role = None,
    name: Name = None,
    access_token_expire_minutes: Minutes = None,
    max_requests_per_minute: Limit = None,
    max_requests_per_hour: HourlyQuota = None,
    max_requests_per_day: DailyQuota = None,
    allowed_networks: Network = None,
    grant_types: Grant = None,
    issue_refresh_tokens: Refresh = None,
    jwks: Jwks = None,
    jwks_uri: JwksUri = None,
    token_endpoint_auth_methods: Method = None,
    audience: Audience = None,
    dpop_bound_access_tokens: Dpop = None,
    as_json: Json = False,
) -> None:
    """Register a client. Its secret is shown this once; one with keys has none."""
    fields: Any = {"scopes": [], **_given(locals())}
    registered = run(lambda services: services.clients.register(client_id, **fields))
    show(handed_out(registered), as_json=as_json)


@app.command("list")
def list_clients(
    after: Annotated[str, typer.Option(help="The last id of the page before.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at the most.")] = 100,
    as_json: Json = False,
) -> None:
    """Clients in the order of their ids."""
    documents = run(lambda services: services.clients.page(after, limit))
    show_all(list(map(_row, documents)), as_json=as_json, empty="There is no client yet.")
    if len(documents) == limit and not as_json:
        say(f"More: --after {documents[-1]['client_id']}")


@app.command("show")
def show_client(client_id: ClientId, as_json: Json = False) -> None:
    """What a client may do, what it really does, and what could be taken away."""

    async def work(
        services: Services,
    ) -> tuple[Client, Mapping[str, Any], list[SecretInfo], list[Use], list[Superfluous]]:
        clients = services.clients
        client = await clients.get(client_id)
        document = await clients.find(client_id) or {}
        uses, since = await clients.used.of(client_id), await clients.used.since()
        now, settings = datetime.now(UTC), await services.settings.current()
        spare = superfluous(client, uses, settings, since=since, now=now)
        return client, document, await clients.secrets(client_id), uses, spare

    client, document, secrets, uses, spare = run(work)
    facts = _facts(client, document)
    if as_json:
        print_json({
            **facts,
            "secrets": list(map(members, secrets)),
            "uses": list(map(asdict, uses)),
            "superfluous": list(map(asdict, spare)),
        })  # fmt: skip
        return
    show(facts | {"secrets": len(secrets) or None}, as_json=False)
    for kind in (Used.SCOPE, Used.ASKED_SCOPE, Used.ROLE, Used.GRANT):
        used = {use.name: use.last_used_at for use in uses if use.kind is kind}
        typer.echo(f"\n{_HEADINGS[kind]}: " + (words(used) or "none seen"))
    for each in spare:
        thing = f"{each.what} {each.name}".rstrip()
        typer.echo(f"\nCould go: {thing} ({each.why})\n  {each.how}")


_HEADINGS = {
    Used.SCOPE: "Scopes that routes wanted",
    Used.ASKED_SCOPE: "Scopes that it asked for by name",
    Used.ROLE: "Roles that routes wanted",
    Used.GRANT: "Grants that it used",
}


@app.command()
def update(
    client_id: ClientId,
    scopes: Scope = None,
    add_scope: Annotated[Words, typer.Option(help="One more scope; repeat it.")] = None,
    drop_scope: Annotated[Words, typer.Option(help="A scope less; repeat it.")] = None,
    role: Role = None,
    name: Name = None,
    access_token_expire_minutes: Minutes = None,
    max_requests_per_minute: Limit = None,
    max_requests_per_hour: HourlyQuota = None,
    max_requests_per_day: DailyQuota = None,
    allowed_networks: Network = None,
    grant_types: Grant = None,
    issue_refresh_tokens: Refresh = None,
    jwks: Jwks = None,
    jwks_uri: JwksUri = None,
    token_endpoint_auth_methods: Method = None,
    audience: Audience = None,
    dpop_bound_access_tokens: Dpop = None,
    usual: Annotated[
        Words, typer.Option(help="A field that is to be as usual again, as in `show`; repeat it.")
    ] = None,
    end_tokens: EndTokens = False,
    as_json: Json = False,
) -> None:
    """Change what a client may do; what is not named stays as it is.

    Tokens that it has keep what they say until they expire, unless they are ended.
    """
    fields = _given(locals())

    async def work(services: Services) -> tuple[Client, Mapping[str, Any]]:
        changes: Any = {**dict.fromkeys(usual or []), **fields}
        if add_scope or drop_scope:
            now = scopes or (await services.clients.get(client_id)).scopes
            changes["scopes"] = {*now, *(add_scope or [])} - {*(drop_scope or [])}
        client = await services.clients.update(client_id, end_tokens=end_tokens, **changes)
        return client, await services.clients.find(client_id) or {}

    if scopes and (add_scope or drop_scope):
        raise ending(Exit.USAGE, "--scope says all scopes: --add-scope and --drop-scope go without")
    show(_facts(*run(work)), as_json=as_json)


@app.command()
def disable(client_id: ClientId, yes: Yes = False, as_json: Json = False) -> None:
    """Stop a client: no new tokens, and its live ones are refused everywhere at once."""
    confirm(f"Stop {client_id} and end all its tokens?", yes=yes)
    run(lambda services: services.clients.disable(client_id))
    report(f"Disabled {client_id}.", as_json=as_json, client_id=client_id, disabled=True)


@app.command()
def enable(client_id: ClientId, as_json: Json = False) -> None:
    """Let a disabled client work again, with new tokens."""
    run(lambda services: services.clients.enable(client_id))
    report(f"Enabled {client_id}.", as_json=as_json, client_id=client_id, disabled=False)


@app.command()
def remove(client_id: ClientId, yes: Yes = False, as_json: Json = False) -> None:
    """Forget a client; its live tokens are refused everywhere at once."""
    confirm(f"Remove {client_id} and end all its tokens?", yes=yes)
    run(lambda services: services.clients.remove(client_id))
    report(f"Removed {client_id}.", as_json=as_json, client_id=client_id, removed=True)


@app.command()
def export(as_json: Json = False) -> None:
    """Print all clients as YAML, for `apply`, which takes JSON too. Secrets are not in it."""
    documents = run(lambda services: services.clients.documents())
    if as_json:
        print_json(members_of(documents))
    else:
        typer.echo(text_of(documents), nl=False)


@app.command()
def apply(
    file: Annotated[
        Path, typer.Argument(exists=True, allow_dash=True, dir_okay=False, help="`-`: from a pipe.")
    ],
    dry_run: DryRun = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove who is not in the file.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make the clients what a file says they are; a second time there is nothing to do.

    The file is read and checked in full before anything is changed. Secrets of new clients are
    shown this once; those that are there stay as they are.
    """
    text = _file(file)
    try:
        wanted = wanted_from(text)
    except ValueError as fault:
        raise ending(Exit.USAGE, str(fault)) from None
    changes = run(lambda services: services.clients.plan(wanted, prune=prune))
    for change in changes:
        typer.echo(line_of(change), err=as_json)
    if not changes:
        say("Nothing to do.")
    removed = [change for change in changes if change.action in ("remove", "disable")]
    if removed and not dry_run:
        names = ", ".join(change.client_id for change in removed)
        confirm(f"Stop {names} and end all tokens of these?", yes=yes)
    made: list[RegisteredClient] = []
    try:
        if not dry_run:
            run(lambda services: _carry_out(services, changes, made, as_json))
    finally:  # what was made is said, whatever came after it
        if as_json:
            print_json(_as_json(changes, made))


async def _carry_out(
    services: Services, changes: Sequence[ClientChange], made: list[RegisteredClient], as_json: bool
) -> None:
    for change in changes:
        registered = await services.clients.carry_out(change)
        if registered is not None and registered.client_secret is not None:
            made.append(registered)
            if not as_json:
                show(handed_out(registered), as_json=False)


def line_of(change: ClientChange) -> str:
    """A change as people read it, such as `~ update billing: scopes +write`."""
    line = f"{_MARKS[change.action]} {change.action} {change.client_id}"
    if change.action == "create":
        pairs = [f"{name} {words(after)}".rstrip() for name, (_, after) in change.fields.items()]
        return f"{line}: {', '.join(pairs)}"
    texts = [_difference(name, *pair) for name, pair in change.fields.items()]
    return f"{line}: {', '.join(texts)}" if texts else line


def _difference(name: str, before: Any, after: Any) -> str:
    if name in ("scopes", "role"):
        return in_words({name: (before, after)})
    if name == "jwks":
        return "jwks"
    return f"{name} {_or_usual(before)} -> {_or_usual(after)}"


def _or_usual(value: Any) -> str:
    return "usual" if value is None else words(value)


def _as_json(changes: Sequence[ClientChange], made: Sequence[RegisteredClient]) -> Any:
    return {
        "changes": [
            {
                "action": change.action,
                "client_id": change.client_id,
                "fields": {
                    name: {"before": before, "after": after}
                    for name, (before, after) in change.fields.items()
                },
            }
            for change in changes
        ],
        "secrets": list(map(handed_out, made)),
    }


def _facts(client: Client, document: Mapping[str, Any]) -> dict[str, Any]:
    """A client as its document says, without its secrets."""
    own = {name: document[name] for name in FIELDS if document.get(name) is not None}
    keys = own.get("jwks")
    if keys is not None:
        own["jwks"] = [key.kid for key in client.jwks]
    return {
        "client_id": client.client_id,
        **{"scopes": sorted(client.scopes), "role": client.role, **own},
        "disabled": client.disabled,
        "created_at": client.created_at,
        "last_used_at": client.last_used_at,
    }


def _row(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """A client in a list; one that was mistyped by hand is listed too, with what is wrong."""
    try:
        client, fault = client_from(document), None
    except ValueError as mistake:
        client, fault = None, str(mistake)
    now = datetime.now(UTC)
    return {
        "client_id": document["client_id"],
        "name": client and client.name,
        "scopes": sorted(client.scopes) if client else None,
        "role": client and client.role,
        "disabled": client.disabled if client else None,
        "secrets": len(client.live_secrets(now)) if client else None,
        "created_at": client and client.created_at,
        "last_used_at": client and client.last_used_at,
        "malformed": fault,
    }
