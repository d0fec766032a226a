"""Names that changed still work, and say what they are called now."""

from __future__ import annotations

import sys
import types

import pytest

from repdyn.deprecation import renamed, renamed_arguments, warn_without_effect


def test_an_old_name_of_a_module_gives_the_new_object() -> None:
    module = types.ModuleType("a_module_with_renamed_names")
    module.New = object()  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    lookup = renamed(module.__name__, {"Old": "New"})
    with pytest.warns(DeprecationWarning, match="Old was renamed New"):
        assert lookup("Old") is module.New
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        lookup("Other")


def test_an_old_argument_is_passed_under_its_new_name() -> None:
    @renamed_arguments(beside="baselines")
    def total(x: int, *, baselines: int = 0) -> int:
        return x + baselines

    assert total(1, baselines=2) == 3
    with pytest.warns(DeprecationWarning, match="beside was renamed baselines"):
        assert total(1, beside=2) == 3  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="give one of them"):
        total(1, beside=2, baselines=3)  # type: ignore[call-arg]


def test_an_argument_without_effect_warns_at_the_line_that_gives_it() -> None:
    def mean(x: list[float], seed: int | None = None) -> float:
        warn_without_effect("mean", seed=seed)
        return sum(x) / len(x)

    assert mean([1.0, 2.0]) == 1.5
    with pytest.warns(DeprecationWarning, match="mean: the argument seed has no effect") as caught:
        mean([1.0, 2.0], seed=0)  # 0 is a value that was given
    assert caught[0].filename == __file__


def test_modules_that_moved_are_found_under_their_old_names() -> None:
    from repdyn.datasets import documentation_corpus
    from repdyn.reporting import report

    with pytest.warns(DeprecationWarning, match="moved to repdyn.reporting"):
        from repdyn.cli.gallery import report as old_report
    with pytest.warns(DeprecationWarning, match="moved to repdyn.datasets"):
        from repdyn.cli.corpus import documentation_corpus as old_corpus
    assert old_report is report
    assert old_corpus is documentation_corpus
