"""What is derived from an identity's seed."""

from __future__ import annotations

import pickle

import pytest

from hyperpy import Identity


def test_what_is_derived_is_of_the_seed_the_device_and_the_purpose_and_of_nothing_else() -> None:
    identities = [
        Identity(name, seed, device)
        for name in "ab"
        for seed in (0, 1, 2**128 - 1)
        for device in ("", "port 0x1")
    ]
    derived = [it.derive(purpose, 16) for it in identities for purpose in ("", "key", "0x1")]
    assert len(set(derived)) == len(derived) // 2
    assert derived[: len(derived) // 2] == derived[len(derived) // 2 :]
    # Of known bytes: they are the same in every process and version.
    assert Identity("", 7).derive("key", 8).hex() == "3fcdaeff2a4665fe"
    assert Identity("", 7).derive("key", 0) == b""
    # Where one part ends is part of it.
    assert Identity("", 1, "a', 'b").derive("c", 8) != Identity("", 1, "a").derive("b', 'c", 8)
    assert len(Identity("", 1, "\ud800").derive("\udfff", 8)) == 8


def test_macs_are_unicast_and_local_and_differ_by_number() -> None:
    macs = {Identity("", seed).mac(number) for seed in range(64) for number in (0, 1)}
    assert len(macs) == 128
    assert {mac[0] & 3 for mac in macs} == {2}
    assert {len(mac) for mac in macs} == {6}


def test_random_numbers_begin_anew_and_differ_by_purpose() -> None:
    me = Identity("", 3)
    numbers = [me.random(purpose).getrandbits(64) for purpose in ("", "", "disk")]
    assert numbers[0] == numbers[1] != numbers[2]


@pytest.mark.parametrize(
    ("seed", "error"), [(-1, ValueError), (2**128, ValueError), ("1", TypeError), (None, TypeError)]
)
def test_seed_that_is_no_number_of_128_bits_is_refused(seed: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        Identity("", seed)  # type: ignore[arg-type]


def test_number_of_bytes_below_none_is_refused() -> None:
    with pytest.raises(ValueError, match="number of bytes is below 0: -1"):
        Identity("", 1).derive("key", -1)


def test_identity_is_a_value() -> None:
    identity = Identity("a", seed=1, device="port 0x1")
    assert pickle.loads(pickle.dumps(identity)) == identity == Identity("a", 1, "port 0x1")
    assert repr(identity) == "Identity(name='a', seed=1, device='port 0x1')"
