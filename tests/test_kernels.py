"""Compiled arithmetic on float16 bits, for all of them; and compiled code that is kept, but never anybody else's."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softpatch.memory.kernels.compiling import compiled
from softpatch.memory.kernels.distances import place_of_least, widened, widened_at_once, widened_by_bits

EVERY = np.arange(2**16, dtype=np.uint16)
FINITE = EVERY[np.isfinite(EVERY.view(np.float16))]


@pytest.mark.parametrize(
    "widen",
    [
        widened_by_bits,
        pytest.param(
            widened_at_once,
            marks=pytest.mark.skipif(widened is widened_by_bits, reason="the processor has no such instruction"),
        ),
    ],
)
def test_float16_is_widened_exactly(widen: Callable[[np.uint16], np.float32]) -> None:
    @compiled
    def widen_all(bits: np.ndarray, values: np.ndarray) -> None:
        for n in range(len(bits)):
            values[n] = widen(bits[n])

    values = np.empty(len(FINITE), np.float32)
    widen_all(FINITE, values)
    np.testing.assert_array_equal(values, FINITE.view(np.float16).astype(np.float32))


def test_the_place_of_the_least() -> None:
    assert place_of_least(np.array([3, -1, 2], np.float32)) == 1
    assert place_of_least(np.array([3, np.inf, 2], np.float32)) == 2
    assert place_of_least(np.array([np.inf, np.inf], np.float32)) in (0, 1)


def compile_one(cache: Path, *, before: str = "") -> str:
    """Call a kernel in a new process: how often it was loaded from the cache folder, and what it gave."""
    script = f"""
import os
{before}
import numpy as np
from softpatch.memory.kernels.distances import largest_of

print(sum(largest_of.stats.cache_hits.values()), largest_of(np.array([3, 8, 5], np.float32)), end=" ")
print(sum(largest_of.stats.cache_hits.values()))
"""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], env=environment, check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    return done.stdout.strip()


COMPILED, LOADED = "0 8.0 0", "0 8.0 1"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    if sys.platform != "linux":
        pytest.skip("the folder of caches is elsewhere")
    return tmp_path / "cache"


def kept_files(cache: Path) -> list[Path]:
    return sorted((cache / "softpatch/compiled").iterdir())


def test_compiled_code_is_kept_for_the_next_process(cache: Path) -> None:
    assert compile_one(cache) == COMPILED
    (kept,) = kept_files(cache)
    assert kept.parent.stat().st_mode & 0o777 == 0o700
    assert compile_one(cache) == LOADED
    assert kept_files(cache) == [kept]


@pytest.mark.parametrize("content", [b"", None])
def test_a_broken_file_is_compiled_anew_and_replaced(cache: Path, content: bytes | None) -> None:
    compile_one(cache)
    (kept,) = kept_files(cache)
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if content is None else content)
    assert compile_one(cache) == COMPILED
    assert kept.read_bytes()[:32] != (content or b"")[:32]
    assert compile_one(cache) == LOADED


def test_what_others_could_have_written_is_not_loaded(cache: Path) -> None:
    compile_one(cache)
    (kept,) = kept_files(cache)
    kept.chmod(0o620)
    assert compile_one(cache) == COMPILED  # and a file of this user's alone takes its place
    assert compile_one(cache) == LOADED
    kept.parent.chmod(0o777)
    assert compile_one(cache) == COMPILED
    kept.parent.chmod(0o700)
    other = kept.rename(cache / "other")
    kept.symlink_to(other)
    assert compile_one(cache) == COMPILED
    assert not kept.is_symlink()
    another = kept.parent.rename(cache / "another")
    kept.parent.symlink_to(another)
    assert compile_one(cache) == COMPILED


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system knows no owners")
def test_what_another_user_owns_is_not_loaded(cache: Path) -> None:
    compile_one(cache)
    assert compile_one(cache, before="os.geteuid = lambda: 4711") == COMPILED


def test_without_a_folder_to_keep_it_in_code_is_compiled_in_memory(cache: Path) -> None:
    cache.write_text("not a folder")
    assert compile_one(cache) == COMPILED
