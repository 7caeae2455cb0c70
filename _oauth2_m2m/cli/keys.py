"""`oauth2-m2m keys`: the keys that sign access tokens."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated

import typer

from _oauth2_m2m.cli.output import Json, Yes, confirm, report, show, show_all
from _oauth2_m2m.cli.running import run
from _oauth2_m2m.key_management import KeyManagement

app = typer.Typer(help="The keys that sign access tokens.", no_args_is_help=True)

Announce = Annotated[
    int, typer.Option(min=0, help="Minutes for which the next key is published before it signs.")
]


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Every key that signs, will sign, or may have signed a token that is alive."""
    keys = run(lambda services: KeyManagement(services).list())
    show_all([asdict(key) for key in keys], as_json=as_json, empty="There is no key yet.")


@app.command()
def rotate(announce_minutes: Announce = 0, as_json: Json = False) -> None:
    """Have the next key sign; the one before it verifies on until its last token has expired."""
    announce = timedelta(minutes=announce_minutes)
    key = run(lambda services: KeyManagement(services).rotate(announce=announce))
    show(
        {"kid": key.kid, "algorithm": key.algorithm, "signs_from": key.signs_from}, as_json=as_json
    )


@app.command()
def burn(kid: str, yes: Yes = False, as_json: Json = False) -> None:
    """Give up a key that leaked: all that it signed is refused everywhere, at once."""
    confirm(f"Refuse every token that {kid} has signed?", yes=yes)
    run(lambda services: KeyManagement(services).burn(kid))
    report(f"Burned {kid}.", as_json=as_json, kid=kid, burned=True)


@app.command()
def rewrap(as_json: Json = False) -> None:
    """Seal every private key anew with the first key of OAUTH2_M2M_KEY_ENCRYPTION_KEY."""
    # Not prepared: a key that signs and does not open is no reason to leave the others as they are.
    done = run(lambda services: KeyManagement(services).rewrap(), prepared=False)
    show_all([{"kid": kid} for kid in done], as_json=as_json, empty="Nothing to do.")
