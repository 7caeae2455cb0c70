"""`oauth2-m2m secrets`: the secrets of a client, several at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

import typer

from _oauth2_m2m.cli.durations import duration, spoken
from _oauth2_m2m.cli.output import (
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
from _oauth2_m2m.cli.running import run
from _oauth2_m2m.client_documents import RegisteredClient
from _oauth2_m2m.client_secrets import SecretInfo
from _oauth2_m2m.services import Services

app = typer.Typer(help="The secrets of a client.", no_args_is_help=True)

#: How long old secrets go on working when nothing else is said.
USUAL_OVERLAP = timedelta(days=7)

ClientId = Annotated[str, typer.Argument(help="The client's id.", metavar="CLIENT")]
Label = Annotated[str | None, typer.Option(help="What to call the new secret.")]
Expires = Annotated[
    timedelta | None,
    typer.Option(parser=duration, metavar="TIME", help="When it ends, such as 90d; else never."),
]
Overlap = Annotated[
    timedelta | None,
    typer.Option(
        parser=duration,
        metavar="TIME",
        help="How long the old secrets go on working, such as 12h; 7d unless something is said. "
        "0 ends them at once, and every token of the client.",
    ),
]
Idle = Annotated[
    timedelta | None,
    typer.Option(
        "--retire-when-idle",
        parser=duration,
        metavar="TIME",
        help="End each old secret once it was not used for so long, such as 7d.",
    ),
]
EndTokens = Annotated[
    bool, typer.Option("--end-tokens", help="End every live token of the client too.")
]


@app.command("list")
def list_secrets(client_id: ClientId, as_json: Json = False) -> None:
    """Every secret of a client: when it was made, when it ends, who used it last."""
    secrets = run(lambda services: services.clients.secrets(client_id))
    if as_json:
        print_json(list(map(members, secrets)))
    else:
        show_all(list(map(_row, secrets)), as_json=False, empty="It has no secret.")


@app.command()
def add(
    client_id: ClientId, label: Label = None, expires: Expires = None, as_json: Json = False
) -> None:
    """Make one more secret; it is shown this once, and those that are there go on working."""
    registered = run(
        lambda services: services.clients.add_secret(client_id, label=label, expires_in=expires)
    )
    show(handed_out(registered), as_json=as_json)


@app.command()
def rotate(
    client_id: ClientId,
    overlap: Overlap = None,
    retire_when_idle: Idle = None,
    label: Label = None,
    expires: Expires = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make a new secret beside the old ones, which go on working for a while.

    It is shown this once. Who still uses the old ones is said beside it.
    """
    if overlap is None and retire_when_idle is None:
        overlap = USUAL_OVERLAP
    if overlap == timedelta(0):
        confirm(f"End all secrets and tokens that {client_id} has now?", yes=yes)

    async def work(services: Services) -> tuple[RegisteredClient, list[SecretInfo]]:
        registered = await services.clients.rotate_secret(
            client_id,
            overlap=overlap,
            retire_when_idle=retire_when_idle,
            label=label,
            expires_in=expires,
        )
        secrets = await services.clients.secrets(client_id)
        return registered, [each for each in secrets if each.id != registered.secret_id]

    registered, old = run(work)
    result = handed_out(registered)
    if as_json:
        print_json({**result, "still_live": list(map(members, old))})
        return
    show(result, as_json=False)
    for secret in old:
        say(_farewell(secret))


@app.command()
def retire(
    client_id: ClientId,
    secret_id: Annotated[str, typer.Argument(help="Its id: see `secrets list`.", metavar="SECRET")],
    end_tokens: EndTokens = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """End one secret at once; the others, and tokens that were had with it, go on working."""
    if not yes:
        secrets = run(lambda services: services.clients.secrets(client_id))
        used = [_use(secret) for secret in secrets if secret.id == secret_id]
        confirm(f"End secret {secret_id} of {client_id} ({''.join(used) or 'unknown'})?", yes=False)
    run(
        lambda services: services.clients.retire_secret(client_id, secret_id, end_tokens=end_tokens)
    )
    report(
        f"Retired {secret_id}.",
        as_json=as_json,
        client_id=client_id,
        secret_id=secret_id,
        retired=True,
        tokens_ended=end_tokens,
    )


def handed_out(registered: RegisteredClient) -> Mapping[str, Any]:
    """What is shown once: a client's new secret."""
    return {
        "client_id": registered.client.client_id,
        "secret_id": registered.secret_id,
        "client_secret": registered.client_secret,
    }


def members(secret: SecretInfo) -> Mapping[str, Any]:
    """A secret for programs."""
    idle = secret.retire_when_idle
    return {
        **asdict(secret),
        "retire_when_idle": None if idle is None else spoken(idle),
        "last_used_from": [
            {"ip": ip, "last_used_at": when} for ip, when in secret.last_used_from.items()
        ],
    }


def _row(secret: SecretInfo) -> Mapping[str, Any]:
    return {
        "id": secret.id,
        "label": secret.label,
        "live": secret.live,
        "made": secret.created_at,
        "ends": _end(secret),
        "last used": secret.last_used_at or "never seen",
        "from": list(secret.last_used_from),
        "stored": secret.stored,
    }


def _end(secret: SecretInfo) -> str:
    ends: Sequence[str] = [
        *([] if secret.expires_at is None else [words(secret.expires_at)]),
        *(
            []
            if secret.retire_when_idle is None
            else [f"{spoken(secret.retire_when_idle)} unused ({words(secret.idle_until)})"]
        ),
    ]
    return " or ".join(ends) or "never"


def _use(secret: SecretInfo) -> str:
    if secret.last_used_at is None:
        return "its use was never seen"
    return f"last used {words(secret.last_used_at)} from {words(list(secret.last_used_from))}"


def _farewell(secret: SecretInfo) -> str:
    """What is said of an old secret when another one takes over."""
    name = f"{secret.id} ({secret.label})" if secret.label else secret.id
    return f"Still live: {name}, {_use(secret)}; ends: {_end(secret)}."
