"""The operator's command line: `oauth2-m2m`, also `python -m oauth2_m2m`. A file for each group."""

from __future__ import annotations

import logging

import typer

from _oauth2_m2m.cli import (
    audit,
    clients,
    config,
    doctor,
    importing,
    keys,
    routes,
    secrets,
    tokens,
)
from _oauth2_m2m.cli.explain import explain

app = typer.Typer(
    name="oauth2-m2m",
    help="Run an OAuth 2.0 authorization server that is kept in MongoDB. "
    "MONGODB_URL and MONGODB_DB name the database.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a trace with local variables could show a secret
)
app.add_typer(audit.app, name="audit")
app.add_typer(clients.app, name="clients")
app.add_typer(config.app, name="config")
app.add_typer(keys.app, name="keys")
app.add_typer(secrets.app, name="secrets")
app.command("import")(importing.import_clients)
app.command()(routes.routes)
app.add_typer(tokens.app, name="tokens")
app.command()(doctor.doctor)
app.command()(explain)


def main() -> None:
    """Run the command that the process was started with."""
    # Commands say themselves what is wrong; a service's warnings are no part of their output.
    logging.getLogger("oauth2_m2m").addHandler(logging.NullHandler())
    logging.getLogger("oauth2_m2m").propagate = False
    app(prog_name="oauth2-m2m")
