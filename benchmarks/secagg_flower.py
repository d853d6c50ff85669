"""One round of Flower's SecAgg+ (the legacy workflow), in Flower's own functions.

The client side runs the mod's four stages as they are. The server's stages live inside a workflow
that needs a grid; its arithmetic on vectors and shares is repeated here call by call. What the
server does for each silo is the same for all, so it is timed for a few and multiplied.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ConfigRecord
from flwr.client.mod.secure_aggregation.secaggplus_mod import (
    SecAggPlusState,
    _collect_masked_vectors,
    _setup,
    _share_keys,
    _unmask,
)
from flwr.common import bytes_to_ndarray, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    encrypt,
    generate_shared_key,
)
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_extract,
    get_parameters_shape,
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import dequantize
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    generate_key_pairs,
    public_key_to_bytes,
)
from numpy.typing import NDArray

from benchmarks.secagg_case import Case, Stopwatch
from fedvemoe_app.secagg.spec import least_threshold

CLIPPING_RANGE, QUANTIZATION_RANGE, MODULUS = 8.0, 2**22, 2**32
TIMED = 3
ME = 0


@dataclass
class FlowerRound:
    """A client that really takes part, among peers of whom only keys exist."""

    case: Case
    vectors: NDArray[np.float32]

    def run(self, watch: Stopwatch) -> int:
        """Measure a client and the server; return the bytes of one upload."""
        state = SecAggPlusState()
        state.nid = ME
        with watch.client("keys"):
            own = _setup(state, self._parameters())
        keys, peers = self._peers(own)
        with watch.client("keys"):
            shared = _share_keys(state, ConfigRecord(keys))  # type: ignore[arg-type]
        inbox = self._inbox(state, peers)
        parameters = ndarrays_to_parameters([self.vectors])
        with watch.client("vectors"):
            upload = _collect_masked_vectors(state, inbox, 1, parameters)
        with watch.client("unmask"):
            _unmask(state, self._survivors())
        masked: list[bytes] = upload[Key.MASKED_PARAMETERS]  # type: ignore[assignment]
        assert len(shared[Key.CIPHERTEXT_LIST]) == self.case.silos - 1  # type: ignore[arg-type]
        self._server(watch, masked, state, peers)
        return sum(map(len, masked[1:]))

    def _parameters(self) -> ConfigRecord:
        values: dict[str, Any] = {
            Key.SAMPLE_NUMBER: self.case.silos,
            Key.SHARE_NUMBER: self.case.silos,
            Key.THRESHOLD: least_threshold(self.case.silos),
            Key.CLIPPING_RANGE: CLIPPING_RANGE,
            Key.TARGET_RANGE: QUANTIZATION_RANGE,
            Key.MOD_RANGE: MODULUS,
            Key.MAX_WEIGHT: 1.0,
        }
        return ConfigRecord(values)

    def _peers(self, own: dict[str, Any]) -> tuple[dict[str, list[bytes]], dict[int, Any]]:
        """Return all public keys by node, and the peers' private keys for shares."""
        keys = {str(ME): [own[Key.PUBLIC_KEY_1], own[Key.PUBLIC_KEY_2]]}
        peers = {}
        for node in range(1, self.case.silos):
            (_, mask_key), (peers[node], share_key) = generate_key_pairs(), generate_key_pairs()
            keys[str(node)] = [public_key_to_bytes(mask_key), public_key_to_bytes(share_key)]
        return keys, peers

    def _inbox(self, state: SecAggPlusState, peers: dict[int, Any]) -> ConfigRecord:
        """Return what peers send: shares of the right size, which nobody will combine."""
        own_key = bytes_to_public_key(state.pk2)
        sealed = []
        for node, private in peers.items():
            shares = state.rd_seed_share_dict[ME], state.sk1_share_dict[ME]
            plaintext = share_keys_plaintext_concat(node, ME, *shares)
            sealed.append(encrypt(generate_shared_key(private, own_key), plaintext))
        return ConfigRecord({Key.SOURCE_LIST: list(peers), Key.CIPHERTEXT_LIST: sealed})

    def _survivors(self) -> ConfigRecord:
        nodes = list(range(self.case.silos))
        left = self.case.silos - self.case.dropouts
        return ConfigRecord(
            {Key.ACTIVE_NODE_ID_LIST: nodes[:left], Key.DEAD_NODE_ID_LIST: nodes[left:]}
        )

    def _server(
        self, watch: Stopwatch, masked: list[bytes], state: SecAggPlusState, peers: dict[int, Any]
    ) -> None:
        survivors = self.case.silos - self.case.dropouts
        threshold = least_threshold(self.case.silos)
        shares = [state.rd_seed_share_dict[ME]] * threshold
        total = [bytes_to_ndarray(array) for array in masked]
        shapes = get_parameters_shape(total)
        timed = min(TIMED, survivors)
        with watch.server("vectors", survivors / timed):
            for _ in range(timed):
                total = parameters_addition(total, [bytes_to_ndarray(array) for array in masked])
        with watch.server("unmask", survivors / timed):
            for _ in range(timed):
                combine(shares, threshold)
                mask = pseudo_rand_gen(state.rd_seed, MODULUS, shapes)
                total = parameters_subtraction(total, mask)
        pairs = survivors * self.case.dropouts
        if pairs:
            with watch.server("unmask", self.case.dropouts):
                combine([state.sk1_share_dict[ME]] * threshold, threshold)
            with watch.server("unmask", pairs / timed):
                for _ in range(timed):
                    key = generate_shared_key(
                        bytes_to_private_key(state.sk1), bytes_to_public_key(state.pk2)
                    )
                    total = parameters_addition(total, pseudo_rand_gen(key, MODULUS, shapes))
        with watch.server("vectors"):
            _, rest = factor_extract(parameters_mod(total, MODULUS))
            dequantize(rest, CLIPPING_RANGE, QUANTIZATION_RANGE)


def combine(shares: list[bytes], threshold: int) -> None:
    """Combine ``threshold`` shares; peers' are stand-ins, told apart by their numbers alone."""
    numbered = [
        number.to_bytes(4, "little") + share[4:] for number, share in enumerate(shares, start=1)
    ]
    try:
        combine_shares(numbered[:threshold])
    except ValueError:
        return  # the padding of a stand-in is wrong, found at the very end
