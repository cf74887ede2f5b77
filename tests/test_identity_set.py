"""A compact set holds what was put into it, and nothing else."""

import numpy as np
import pytest

from softpatch.deploy.watch.identity_set import IdentitySet


def test_it_is_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softpatch.deploy.watch.identity_set._MERGED_AT", 7)
    rng = np.random.default_rng(0)
    digests = [rng.bytes(16) for _ in range(100)] + [b"\0" * 16, b"\xff" * 16]
    held = IdentitySet()
    for number, digest in enumerate(digests):
        assert digest not in held
        held.add([digest, digest])
        assert len(held) == number + 1
    assert all(digest in held for digest in digests)
    assert not any(rng.bytes(16) in held for _ in range(1000))
