# SPDX-License-Identifier: MIT
"""Differences that published suites have shown, each reduced to the least that shows it.

Every test here runs a small suite plain and isolated, like ``tools/parity.py``, which found them.
"""

from __future__ import annotations

from pathlib import Path

from tests.support import NEEDS_NAMESPACES, differences, run_parity, write_files

pytestmark = NEEDS_NAMESPACES


def test_the_garbage_collector_shows_what_the_test_has_inherited(tmp_path: Path) -> None:
    """``gc.get_referrers`` and ``gc.get_objects`` know the runner's objects (pytest-mock, trio).

    Hypothesis warns of a random generator that nobody refers to. anyio asserts in coroutines that
    nobody else refers to an exception.
    """
    source = """
        import gc
        import pytest
        class Thing: pass
        THING = Thing()
        HOLDER = [THING]
        def shown():
            kinds = sorted(type(found).__name__ for found in gc.get_referrers(THING))
            return kinds, sum(type(found) is Thing for found in gc.get_objects())
        def test_both(): print(shown(), shown())
        def test_objects_of_all_generations():
            print([any(found is THING for found in gc.get_objects(generation=None))])
        def test_several_referrers():
            mine = [THING]
            kinds = sorted(type(found).__name__ for found in gc.get_referrers(THING, HOLDER))
            print(kinds, any(found is mine for found in gc.get_referrers(THING)))
        def test_from_a_coroutine():
            async def look():
                mine = Thing()
                print(gc.get_referrers(mine), gc.get_referrers(mine))
            with pytest.raises(StopIteration):
                look().send(None)
        def test_after_a_collection():
            gc.collect()
            print(shown())
    """
    plain, isolated = run_parity(write_files(tmp_path, {"test_it.py": source}))
    assert "(['dict', 'list'], 1)" in plain.of("test_both")[1]["sections"][0][1]
    assert differences(plain, isolated) == []
    assert plain.returncode == isolated.returncode == 0
