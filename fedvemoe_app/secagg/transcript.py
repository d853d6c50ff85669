"""What silos and server must agree on: advertisements, what was shown, and keys made of both.

Each mask key is bound to the spec, to who shared and their keys, and to everything a silo was
shown (``binding``). A silo that was shown another model has masks that do not cancel, so a server
cannot single a silo out by giving it a model of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from fedvemoe_app.secagg.codec import Check, digest, is_bytes
from fedvemoe_app.secagg.errors import SecAggRefusal
from fedvemoe_app.secagg.keys import KEY_BYTES, agree, derive
from fedvemoe_app.secagg.layout import Arrays, Lane, Layout
from fedvemoe_app.secagg.masks import MASK_KEY_BYTES, Keystream
from fedvemoe_app.secagg.roster import SIGNATURE_BYTES, Identity, Roster
from fedvemoe_app.secagg.spec import SESSION_BYTES, SessionSpec

IS_SESSION = is_bytes(SESSION_BYTES)
IS_SIGNATURE = is_bytes(SIGNATURE_BYTES)


@dataclass(frozen=True, slots=True)
class Advertisement:
    """A silo's fresh public keys for one sum and the commitment to its own mask, signed."""

    mask_key: bytes
    share_key: bytes
    commitment: bytes
    signature: bytes

    @classmethod
    def signed(
        cls, spec: SessionSpec, identity: Identity, mask_key: bytes, share_key: bytes, seed: bytes
    ) -> Self:
        """Return the advertisement of ``identity``; ``seed`` [32] is that of its own mask."""
        commitment = commit(spec, identity.name, seed)
        message = _advertised(spec, identity.name, mask_key, share_key, commitment)
        return cls(mask_key, share_key, commitment, identity.sign(message))

    def check(self, spec: SessionSpec, name: str, roster: Roster) -> None:
        """Raise SecAggRefusal unless ``name`` is of the cohort and signed this for this session."""
        if name not in spec.cohort:
            raise SecAggRefusal(f"{name} is not in the cohort")
        message = _advertised(spec, name, self.mask_key, self.share_key, self.commitment)
        roster.check(name, message, self.signature)

    def fields(self) -> dict[str, bytes]:
        """Return the fields, to be packed."""
        return {
            "mask_key": self.mask_key,
            "share_key": self.share_key,
            "commitment": self.commitment,
            "signature": self.signature,
        }


def is_advertisement(value: object) -> bool:
    """Whether ``value`` has an advertisement's fields and sizes."""
    checks: dict[str, Check] = {
        "mask_key": is_bytes(KEY_BYTES),
        "share_key": is_bytes(KEY_BYTES),
        "commitment": is_bytes(KEY_BYTES),
        "signature": IS_SIGNATURE,
    }
    return (
        isinstance(value, dict)
        and value.keys() == checks.keys()
        and all(check(value[name]) for name, check in checks.items())
    )


def _advertised(spec: SessionSpec, name: str, *parts: bytes) -> bytes:
    return digest("advertise", spec.hash, name, *parts)


def commit(spec: SessionSpec, name: str, seed: bytes) -> bytes:
    """Return the commitment to a silo's own mask seed, by which wrong shares are found out."""
    return digest("commitment", spec.hash, name, seed)


def check_distinct(adverts: Iterable[Advertisement]) -> None:
    """Raise SecAggRefusal if two advertised keys are the same: one silo copied another's."""
    keys = [key for advert in adverts for key in (advert.mask_key, advert.share_key)]
    if len(set(keys)) != len(keys):
        raise SecAggRefusal("two advertised keys are the same")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a silo was shown before it masked: hashes of model and settings, and the layout.

    ``model`` is empty where no array was shown: such sums tell nothing of a model.
    """

    model: bytes
    config: bytes
    layout: Layout

    @classmethod
    def of(cls, model: Arrays, config: bytes, layout: Layout) -> Self:
        """Return what was shown; ``config`` are the canonical bytes of all settings sent along."""
        parts: list[bytes | str | memoryview] = []
        for name in sorted(model):
            array = np.ascontiguousarray(model[name])
            data = array.reshape(-1).view(np.uint8).data
            parts += [name, str(array.dtype), str(array.shape), data]
        model_hash = digest("model", *parts) if parts else b""
        return cls(model_hash, digest("config", config), layout)

    @property
    def hash(self) -> bytes:
        """All of it [32]."""
        return digest("shown", self.model, self.config, self.layout.hash)


def binding(spec: SessionSpec, sharers: Mapping[str, Advertisement], shown: Shown) -> bytes:
    """Return what the masks of a session hang on [32]."""
    who: list[bytes | str] = []
    for name in sorted(sharers):
        who += [name, *sharers[name].fields().values()]
    return digest("binding", spec.hash, shown.hash, *who)


def mask_stream(secret: bytes, bound_to: bytes, lane: Lane) -> Keystream:
    """Return the mask of a lane that hangs on ``secret`` [32] and on what ``bound_to`` binds.

    The secret is a silo's own seed, or what a pair agreed on; each serves for one session.
    """
    return Keystream(derive(secret, digest("mask", bound_to, lane), MASK_KEY_BYTES))


def adds(name: str, peer: str) -> bool:
    """Whether ``name`` is the one of the pair that adds their mask."""
    return name < peer


def confirmed(bound_to: bytes, survivors: Iterable[str]) -> bytes:
    """Return what silos sign when they agree who survived [32]."""
    return digest("survivors", bound_to, *sorted(survivors))


def share_keys(private: bytes, publics: Mapping[str, bytes], spec: SessionSpec) -> dict[str, bytes]:
    """Return, by peer, the key under which the pair seals shares, the same at both ends."""
    purpose = digest("share key", spec.hash)
    return {peer: derive(secret, purpose) for peer, secret in agree(private, publics).items()}


def share_place(spec: SessionSpec, src: str, dst: str) -> bytes:
    """Return where sealed shares belong: session, sender and receiver; they open nowhere else."""
    return digest("shares", spec.hash, src, dst)
