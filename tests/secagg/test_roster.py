"""Identity keys and the consortium's roster.

Removed by hand, each turned a test here red: the check of the consortium's signature; distinct
keys; the check of a member's signature.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import pytest

from fedvemoe_app.errors import SettingError
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.roster import Identity, Roster

CONSORTIUM = Identity.create("consortium")
ANNA, BERT = Identity.create("anna"), Identity.create("bert")
ROSTER = Roster({"anna": ANNA.public, "bert": BERT.public})


def test_a_signed_roster_comes_back() -> None:
    again = Roster.verify(ROSTER.sign(CONSORTIUM), CONSORTIUM.public)
    assert again == ROSTER
    assert again.fingerprint == ROSTER.fingerprint


def test_a_changed_roster_is_refused() -> None:
    document = json.loads(ROSTER.sign(CONSORTIUM))
    document["members"]["bert"] = Identity.create("eve").public.hex()
    with pytest.raises(SettingError, match="not signed by the pinned consortium key"):
        Roster.verify(json.dumps(document), CONSORTIUM.public)
    with pytest.raises(SettingError, match="not signed by the pinned consortium key"):
        Roster.verify(ROSTER.sign(ANNA), CONSORTIUM.public)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"members":{"a":1},"signature":""}'])
def test_a_broken_file_names_the_fix(text: str) -> None:
    with pytest.raises(SettingError, match="fedvemoe roster sign"):
        Roster.verify(text, CONSORTIUM.public)


def test_members_have_names_and_keys_of_their_own() -> None:
    with pytest.raises(SettingError, match="two silos have one key"):
        Roster({"anna": ANNA.public, "eve": ANNA.public})
    with pytest.raises(SettingError, match="31 bytes, not 32"):
        Roster({"anna": bytes(31)})
    with pytest.raises(SettingError, match="roster: silo 'an na'"):
        Roster({"an na": ANNA.public})


def test_signatures_hold_for_one_name_and_message() -> None:
    signature = ANNA.sign(b"message")
    ROSTER.check("anna", b"message", signature)
    for name, message in (("bert", b"message"), ("anna", b"other"), ("eve", b"message")):
        with pytest.raises(SecAggRefusal):
            ROSTER.check(name, message, signature)


def test_identities_are_kept_as_text() -> None:
    again = Identity.from_pem("anna", ANNA.to_pem())
    assert (again.public, again.storage_key) == (ANNA.public, ANNA.storage_key)
    assert again.storage_key != BERT.storage_key
    with pytest.raises(SettingError, match="identity of anna: not an Ed25519 key"):
        Identity.from_pem("anna", "nothing")


def test_a_key_of_a_kind_that_nobody_knows_is_refused_in_words() -> None:
    lines = ANNA.to_pem().splitlines()
    der = b64decode("".join(lines[1:-1])).replace(bytes.fromhex("2b6570"), bytes.fromhex("2b6575"))
    other = "\n".join([lines[0], b64encode(der).decode(), lines[-1], ""])
    with pytest.raises(SettingError, match="identity of anna"):
        Identity.from_pem("anna", other)
