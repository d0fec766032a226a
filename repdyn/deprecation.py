"""Old names of public objects and arguments: they work for one release, with a ``DeprecationWarning``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

__all__ = ["moved", "old_method", "renamed", "renamed_arguments", "warn_without_effect"]

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module whose public names changed.

    Parameters
    ----------
    module
        The module's ``__name__``.
    names
        New name for each old one.

    Returns
    -------
    callable
        Gives the object of the new name, with a :class:`DeprecationWarning`; raises ``AttributeError`` for
        names that never were.

    Examples
    --------
    >>> __getattr__ = renamed(__name__, {"OldDetector": "Detector"})
    """

    def lookup(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        message = f"{module}.{name} was renamed {names[name]} and will be removed in the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(sys.modules[module], names[name])

    return lookup


def moved(module: str, home: str) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module whose public names are in another one now.

    Parameters
    ----------
    module, home
        Names of the old and of the new module. The new one is imported when a name is looked up.
    """

    def lookup(name: str) -> Any:
        target = import_module(home)
        if name not in target.__all__:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        message = f"{module}.{name} moved to {home}.{name}"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(target, name)

    return lookup


def old_method(old: str, new: str) -> Callable[..., Any]:
    """A method under its old name, which warns and calls the method of the new name.

    Examples
    --------
    >>> class Network:
    ...     save = old_method("save", "save_pretrained")
    """

    def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
        kind = owner if isinstance(owner, type) else type(owner)
        message = f"{kind.__name__}.{old} was renamed {new} and will be removed in the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return getattr(owner, new)(*args, **kwargs)

    method.__name__ = method.__qualname__ = old
    method.__doc__ = f"The old name of :meth:`{new}`."
    return method


def renamed_arguments(**names: str) -> Callable[[Callable[Given, Answer]], Callable[Given, Answer]]:
    """Accept keyword arguments under their old names, with a :class:`DeprecationWarning`.

    Parameters
    ----------
    **names
        New name for each old one: ``renamed_arguments(beside="baselines")``.

    Raises
    ------
    TypeError
        When called, if an argument is given under both names.
    """

    def decorate(function: Callable[Given, Answer]) -> Callable[Given, Answer]:
        @wraps(function)
        def accepting(*args: Given.args, **kwargs: Given.kwargs) -> Answer:
            for old, new in names.items():
                if old not in kwargs:
                    continue
                if new in kwargs:
                    raise TypeError(
                        f"{function.__qualname__}: {old} is the old name of {new}; give one of them"
                    )
                message = f"{function.__qualname__}: the argument {old} was renamed {new}"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return accepting

    return decorate


def warn_without_effect(owner: str, **given: Any) -> None:
    """Warn of each argument that a caller still gives although it has no effect any more.

    Parameters
    ----------
    owner
        Name of the function, for the warning.
    **given
        The arguments without effect, as they were given; None stands for "not given".

    Examples
    --------
    >>> def mean(x: list[float], seed: int | None = None) -> float:
    ...     warn_without_effect("mean", seed=seed)
    ...     return sum(x) / len(x)
    >>> mean([1.0, 2.0])
    1.5
    """
    for name, value in given.items():
        if value is not None:
            message = f"{owner}: the argument {name} has no effect, leave it out; the next release removes it"
            # Level 3 is the line that calls the function with the argument.
            warnings.warn(message, DeprecationWarning, stacklevel=3)
