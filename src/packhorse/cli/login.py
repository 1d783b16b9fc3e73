"""`packhorse login` and `logout`."""

from __future__ import annotations

import sys

import click

from packhorse import login as sessions
from packhorse.cli.main import Context
from packhorse.cli.options import add_registry_options
from packhorse.errors import UsageError
from packhorse.host.registries import RegistryConnections, RegistryOptions
from packhorse.oci.auth import Credentials

_LIMIT = 64 * 1024


@click.command()
@click.argument("registry", default="")
@click.option("-u", "--username", default="", metavar="NAME", help="The user name.")
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@add_registry_options
@click.pass_obj
def login(
    context: Context, registry: str, username: str, password_stdin: bool, registry_options: RegistryOptions
) -> None:
    """Store the credentials for REGISTRY (docker.io), for packhorse, docker and podman."""
    console = context.console
    scope = sessions.LoginScope.parse(registry)
    username, password = _ask_credentials(username, password_stdin=password_stdin)
    console.secrets.add([password])
    # The registry must check what the user typed, not what an earlier login stored.
    credentials = Credentials(username, password, origin="the credentials are those that were given")
    kept = sessions.login(scope, credentials, context.environ, RegistryConnections(registry_options))
    if not kept.was_tried:
        console.say(f"{scope} needs no login: it did not check the password")
    where = kept.program or f"{kept.path}, which only you can read,"
    console.notes([f"logged in to {scope}; {where} stores the password"])


@click.command()
@click.argument("registry", default="")
@click.pass_obj
def logout(context: Context, registry: str) -> None:
    """Remove the credentials for REGISTRY (docker.io)."""
    scope = sessions.LoginScope.parse(registry)
    known, left = sessions.logout(scope, context.environ)
    context.console.notes([f"logged out of {scope}" if known else f"not logged in to {scope}"])
    if left:
        context.console.notes([f"there still are some: {left}"])


def _ask_credentials(username: str, *, password_stdin: bool) -> tuple[str, str]:
    """Returns the user name and password, and prompts for those that were not given; UsageError."""
    if password_stdin:
        if not username:
            raise UsageError("--password-stdin needs --username", fix="add --username NAME")
        given = sys.stdin.buffer.read(_LIMIT).decode(errors="surrogateescape")
        password = given.removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        try:
            username = username or click.prompt("Username", err=True)
            password = click.prompt("Password", hide_input=True, err=True)
        except click.Abort as error:
            raise UsageError("not logged in", why="the input ended") from error
    else:
        raise UsageError(
            "no password was given",
            why="standard input is not a terminal, so packhorse cannot ask",
            fix="write it to: packhorse login --username NAME --password-stdin",
        )
    if not password or any(character in password for character in "\n\r\0"):
        raise UsageError("no password was given", why="standard input is empty, or has more than one line")
    try:
        f"{username}{password}".encode()
    except UnicodeEncodeError as error:
        raise UsageError("user name and password have to be UTF-8", why="they have other bytes") from error
    if ":" in username:
        raise UsageError("this is not a user name", why="it has a colon")
    return username, password
