"""``fedvemoe roster ...``: the identity keys of a consortium, as files to be passed by hand.

A public file (``NAME.pub``) is one line: 64 hex digits and the name. Private files (``NAME.pem``)
stay where they were made. No file is ever overwritten.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fedvemoe_app.cli.commands import Commands
from fedvemoe_app.cli.console import readable_errors
from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.roster import Identity, Roster

CONSORTIUM = "consortium"
_KEY_BYTES = 32

app = Commands(help="Make and check the identity keys of a consortium.", no_args_is_help=True)


@app.command()
def create(
    name: Annotated[
        str, typer.Argument(help="The silo's name: silo-00 for partition-id 0, and so on.")
    ] = "",
    output: Annotated[Path, typer.Option(help="Folder for the two files.")] = Path("."),
    consortium: Annotated[
        bool, typer.Option("--consortium", help="Make the key that signs rosters.")
    ] = False,
) -> None:
    """Make an identity: NAME.pem, the private key, and NAME.pub, which may be shown to anybody.

    A silo's NAME follows from its partition-id: silo-00 for 0, silo-01 for 1, and so on.

    Examples: [bold]fedvemoe roster create silo-00 --output keys[/bold] at a silo;
    [bold]fedvemoe roster create --consortium --output keys[/bold] at the consortium.
    """
    console = Console()
    with readable_errors():
        identity = Identity.create(_name(name, consortium=consortium))
        private, public = (output / f"{identity.name}{ending}" for ending in (".pem", ".pub"))
        _require_free(private, public)
        _write(private, identity.to_pem(), mode=0o600)
        _write(public, f"{identity.public.hex()} {identity.name}\n", mode=0o644)
        _say(console, *_advice(identity, private, public))


@app.command()
def sign(
    public: Annotated[list[Path], typer.Argument(help="The silos' .pub files.", metavar="SILO...")],
    key: Annotated[Path, typer.Option(help="The consortium's private key, consortium.pem.")],
    output: Annotated[Path, typer.Option(help="The roster to write.")] = Path("roster.json"),
) -> None:
    """Sign a roster of the silos' public keys with the consortium's key.

    Make sure first that each file came from its silo, by a call or in person: a roster vouches for
    who owns which key.

    Example: [bold]fedvemoe roster sign --key consortium.pem silo-*.pub --output roster.json[/bold]
    """
    console = Console()
    with readable_errors():
        consortium = Identity.from_pem(CONSORTIUM, _read(key))
        roster = _gathered(public, consortium)
        _require_free(output)
        _write(output, roster.sign(consortium), mode=0o644)
        _show(console, roster)
        _say(console, f"signed roster: {output}; give it to every silo, setting roster")


@app.command()
def verify(
    roster: Annotated[Path, typer.Argument(help="The roster of the consortium, roster.json.")],
    key: Annotated[Path, typer.Option(help="The consortium's public key, consortium.pub.")],
) -> None:
    """Check a roster's signature; print its names and its fingerprint. Exit code 1 if it fails.

    Silos that read the same fingerprint to each other pin the same roster.

    Example: [bold]fedvemoe roster verify roster.json --key consortium.pub[/bold]
    """
    console = Console()
    with readable_errors():
        _, consortium = _read_public(key)
        try:
            found = Roster.verify(_read(roster), consortium)
        except SettingError as error:
            raise SettingError(f"{roster} with {key}: {error}") from None
        _show(console, found)


def _name(name: str, *, consortium: bool) -> str:
    """Return whose identity is asked for; SettingError where that is not clear."""
    if consortium and name not in ("", CONSORTIUM):
        raise SettingError(f"{name} --consortium: leave the name out, it is {CONSORTIUM}")
    if not (name or consortium):
        raise SettingError("no name: give the silo's, such as silo-00, or --consortium")
    return name or CONSORTIUM


def _advice(identity: Identity, private: Path, public: Path) -> list[str]:
    """Return what to do with the two files."""
    lines = [f"private key: {private} (readable by you alone; never send it)"]
    if identity.name == CONSORTIUM:
        setting = f'consortium-key="{identity.public.hex()}"'
        return [*lines, f"public key: {public}; every silo pins it in its node config:", setting]
    setting = f'identity-key="{private.absolute()}"'
    return [
        *lines,
        f"public key: {public}; send it to the consortium",
        "in this silo's node config:",
        setting,
    ]


def _gathered(files: Iterable[Path], consortium: Identity) -> Roster:
    """Return the roster of public files; SettingError where two are of one name or one key."""
    members: dict[str, bytes] = {}
    source: dict[str | bytes, Path] = {CONSORTIUM: Path("--key"), consortium.public: Path("--key")}
    for file in files:
        name, public = _read_public(file)
        for what, kind in ((name, "name"), (public, "key")):
            if what in source:
                raise SettingError(
                    f"{file}: its {kind} is that of {source[what]} as well; "
                    "each silo has its own, and the consortium is no silo"
                )
            source[what] = file
        members[name] = public
    return Roster(members)


def _read_public(file: Path) -> tuple[str, bytes]:
    """Return name and public key [32] of a public file."""
    words = _read(file).split()
    try:
        key, name = words
        public = bytes.fromhex(key)
    except ValueError:
        public, name = b"", ""
    if len(public) != _KEY_BYTES:
        raise SettingError(
            f"{file}: not a public key, which is one line of 64 hex digits and a name; "
            "`fedvemoe roster create` writes it as NAME.pub"
        )
    return name, public


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SettingError(f"{file}: not a text file; is it the right one?") from None
    except OSError as error:
        raise SettingError(f"{file} cannot be read: {error.strerror}") from None


def _require_free(*files: Path) -> None:
    """Raise SettingError where one of ``files`` is there already."""
    for file in files:
        if file.exists():
            raise SettingError(
                f"{file} is there already and is never overwritten: "
                "choose another --output, or move it away"
            )


def _write(file: Path, text: str, *, mode: int) -> None:
    """Write a new file that has ``mode`` from the beginning."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise SettingError(f"{file} cannot be written: {error.strerror}") from None


def _show(console: Console, roster: Roster) -> None:
    _say(console, *sorted(roster.members), f"fingerprint: {roster.fingerprint}")


def _say(console: Console, *lines: str) -> None:
    """Print lines as they are, for people and for pipes."""
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
