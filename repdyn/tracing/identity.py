"""Identity of a trace: hashes of the content of samples, functions and settings.

A continued trace must have the same samples, labels, preparation, pooling and model. Each is hashed by its
content. Content that cannot be hashed raises :class:`Unhashable`, and the trace cannot be continued.
"""

from __future__ import annotations

import dis
import hashlib
import importlib.util
import inspect
import json
import logging
import os
import pickle
import sys
import types
from collections.abc import Mapping
from enum import Enum
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repdyn import devices
from repdyn.reading import as_array

__all__ = [
    "NOT_HASHED",
    "Unhashable",
    "fingerprint",
    "fingerprint_or_reason",
    "hash_tensor",
    "sample_digest",
    "settings_digest",
]

_OWN = frozenset(vars(nn.Module())) | {"_hf_hook", "_old_forward", "_is_hf_initialized", "hf_device_map"}
"""Attributes of every module, and those added by accelerate."""

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

_VOLATILE = frozenset({"_name_or_path", "name_or_path", "transformers_version", "_commit_hash"})
"""Entries of transformers' configurations that do not affect values."""

_LIBRARIES = ("site-packages", "dist-packages", os.path.dirname(os.__file__))


NOT_HASHED = "not hashed: "
"""Prefix of the reason that replaces a digest if there is none."""


class Unhashable(Exception):
    """Raised for a value whose content cannot be hashed."""


def fingerprint(value: Any) -> str:
    """SHA-256 of the content of a value: numbers, arrays, pictures, functions with their references.

    Raises
    ------
    Unhashable
        If the content of a part cannot be hashed.

    Examples
    --------
    >>> fingerprint([1, "a"]) == fingerprint([1, "a"])
    True
    >>> fingerprint([1, "a"]) == fingerprint([1, "b"])
    False
    """
    total = _Hash()
    total.feed(value)
    return total.hexdigest()


def sample_digest(sample: Any) -> str:
    """:func:`fingerprint` of a sample; for a file name, including the bytes of the file."""
    total = _Hash()
    total.feed(sample)
    if isinstance(sample, str | os.PathLike):
        name = os.fspath(sample)
        if len(name) < 1024 and (os.sep in name or "." in name) and "\0" not in str(name):
            total.feed_file(name)
    return total.hexdigest()


def fingerprint_or_reason(value: Any) -> str:
    """:func:`fingerprint`, or the reason why there is none, after :data:`NOT_HASHED`."""
    try:
        return fingerprint(value)
    except Unhashable as error:
        return f"{NOT_HASHED}{error}"


def settings_digest(module: nn.Module) -> str:
    """SHA-256 of what a model's values depend on besides its weights.

    Included are the classes of all modules, their attributes (sizes, constants, activations, configurations),
    buffers that are not saved with the weights, and the user's forward hooks. Of the user's own classes and
    functions, included are their code, their attributes, and the globals and modules that they refer to.
    Attributes and buffers with ``cache`` in their names are excluded, because they depend on earlier inputs.

    If an attribute cannot be hashed, the result is the reason, after :data:`NOT_HASHED`.
    """
    total = _Hash()
    try:
        total.feed_settings(module)
    except Unhashable as error:
        return f"{NOT_HASHED}{error}"
    return total.hexdigest()


def hash_tensor(total: Any, tensor: Tensor) -> None:
    """Hash type, shape and values of a tensor: dense, quantized, sparse, or made of other tensors."""
    total.update(f"{tensor.dtype}|{tuple(tensor.shape)}|".encode())
    tensor = tensor.detach()
    inner = getattr(tensor, "__tensor_flatten__", None)
    if inner is not None:
        names, context = inner()
        total.update(repr(context).encode())
        for name in names:
            hash_tensor(total, getattr(tensor, name))
        return
    if tensor.is_quantized:
        total.update(str(tensor.qscheme()).encode())
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            total.update(f"{tensor.q_scale()}|{tensor.q_zero_point()}|".encode())
        else:
            hash_tensor(total, tensor.q_per_channel_scales())
            hash_tensor(total, tensor.q_per_channel_zero_points())
        tensor = tensor.int_repr()
    elif tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()
        hash_tensor(total, tensor.indices())
        tensor = tensor.values()
    elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        hash_tensor(total, tensor.crow_indices())
        hash_tensor(total, tensor.col_indices())
        tensor = tensor.values()
    elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        hash_tensor(total, tensor.ccol_indices())
        hash_tensor(total, tensor.row_indices())
        tensor = tensor.values()
    elif tensor.is_nested:
        for part in tensor.unbind():
            hash_tensor(total, part)
        return
    elif tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat = devices.to(tensor.resolve_conj().resolve_neg(), "cpu").contiguous().reshape(-1)
    total.update(as_array(flat.view(torch.uint8)).data)


class _Hash:
    """A SHA-256 of values of any type."""

    def __init__(self) -> None:
        self._total = hashlib.sha256()
        # The value is kept with its digest, so that its id is not reused.
        self._known: dict[int, tuple[bytes, Any]] = {}

    def update(self, data: Any) -> None:
        self._total.update(data)

    def hexdigest(self) -> str:
        return self._total.hexdigest()

    def feed(self, value: Any) -> None:
        """Add a value with its type."""
        kind = type(value)
        self._total.update(f"<{kind.__qualname__}>".encode())
        if isinstance(value, Enum):
            self._bytes(f"{kind.__module__}.{value.name}".encode())
        elif value is None or isinstance(value, bool | int | float | complex | range | slice):
            self._total.update(repr(value).encode())
        elif isinstance(value, str):
            self._bytes(str(value).encode("utf-8", "surrogatepass"))
        elif isinstance(value, bytes | bytearray | memoryview):
            self._bytes(bytes(value))
        elif isinstance(value, Tensor):
            hash_tensor(self._total, value)
        elif isinstance(value, np.ndarray | np.generic):
            self._array(np.asarray(value))
        elif isinstance(value, torch.dtype | torch.device | torch.Size | np.dtype | inspect.Parameter):
            self._bytes(str(value).encode())
        elif isinstance(value, os.PathLike):
            self._bytes(os.fsencode(value))
        else:
            self._compound(value)

    def feed_file(self, name: str | bytes) -> None:
        """Add the bytes of a file, if it exists."""
        if os.path.isfile(name):
            with open(name, "rb") as file:
                self._bytes(hashlib.file_digest(file, "sha256").digest())

    def feed_settings(self, module: nn.Module) -> None:
        """Add a module without its weights; see :func:`settings_digest`."""
        names = {id(part): name for name, part in module.named_modules()}
        saved = set(module.state_dict())
        for name, part in module.named_modules():
            self._bytes(f"{name}|".encode())
            self.feed(type(part))
            for key in sorted(vars(part)):
                if (key in _OWN and not (key in _HOOKS and vars(part)[key])) or "cache" in key.lower():
                    continue
                if key == "forward" and "_hf_hook" in vars(part):
                    continue
                held = vars(part)[key]
                if isinstance(held, torch.ScriptObject):  # part of the digest of the weights
                    continue
                self._bytes(key.encode())
                try:
                    self.feed(f"module {names[id(held)]}" if id(held) in names else held)
                except Unhashable as error:
                    raise Unhashable(
                        f"attribute {key!r} of module {name or 'the model'!r}: {error}"
                    ) from None
        for name, buffer in module.named_buffers():
            if name not in saved and "cache" not in name.lower() and buffer.device.type != "meta":
                self._bytes(name.encode())
                hash_tensor(self._total, buffer)

    def _compound(self, value: Any) -> None:
        """Add a value made of others; it is hashed once, however often it is referenced."""
        if id(value) not in self._known:
            self._known[id(value)] = (f"inside {len(self._known)}".encode(), value)
            inner = _Hash()
            inner._known = self._known
            inner._parts(value)
            self._known[id(value)] = (inner._total.digest(), value)
        self._total.update(self._known[id(value)][0])

    def _parts(self, value: Any) -> None:
        """Add the parts of a compound value, by its type."""
        kind = type(value)
        if kind.__module__.startswith("PIL."):
            self._picture(value)
        elif isinstance(value, Mapping):
            self._unordered((key, held) for key, held in value.items())
        elif isinstance(value, list | tuple):
            self._total.update(str(len(value)).encode())
            for part in value:
                self.feed(part)
        elif isinstance(value, set | frozenset):
            self._unordered(value)
        elif isinstance(value, partial):
            self.feed([value.func, value.args, value.keywords])
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.MethodType):
            self.feed([value.__self__, value.__func__])
        elif isinstance(value, types.BuiltinFunctionType):
            own = getattr(value, "__self__", None)
            self._bytes(f"{getattr(value, '__module__', '')}.{value.__qualname__}".encode())
            self.feed(None if own is None or isinstance(own, types.ModuleType) else own)
        elif isinstance(value, type):
            self._bytes(_named(value).encode())
            self._own_code(value)
        elif isinstance(value, types.ModuleType):
            self._bytes(value.__name__.encode())
            if not _of_library(value.__name__):
                self.feed_file(getattr(value, "__file__", None) or "")
        elif isinstance(value, logging.Logger):
            self._bytes(value.name.encode())
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, nn.Module):
            self.feed_settings(value)
            for name, tensor in sorted(value.state_dict().items()):
                self.feed([name, tensor])
        elif hasattr(value, "backend_tokenizer"):
            self._tokenizer(value)
        elif kind.__module__.startswith("transformers.") and callable(getattr(value, "to_dict", None)):
            config = value.to_dict()
            self._bytes(kind.__qualname__.encode())
            self.feed({key: held for key, held in config.items() if key not in _VOLATILE})
        else:
            self._object(value)

    def _object(self, value: Any) -> None:
        """Add an object by its class and attributes; by its pickle if it is written in C."""
        kind = type(value)
        self.feed(kind)
        slots = {name for base in kind.__mro__ for name in _listed(getattr(base, "__slots__", ()))}
        held = {name: getattr(value, name) for name in slots if hasattr(value, name)}
        held.pop("__weakref__", None)
        held.update(getattr(value, "__dict__", None) or {})
        if held:
            self.feed({name: part for name, part in held.items() if "cache" not in str(name).lower()})
        if hasattr(value, "__dict__") and all(
            base.__flags__ & _WRITTEN_IN_PYTHON for base in kind.__mro__[:-1]
        ):
            return
        try:
            self._bytes(pickle.dumps(value, 4))
        except Exception as error:  # an object may raise anything when it is pickled
            reason = " ".join(str(error).split()) or type(error).__name__
            raise Unhashable(f"a {_named(kind)} has no content that can be hashed ({reason})") from None

    def _picture(self, value: Any) -> None:
        """Add a PIL image by mode, size, pixels and palette."""
        try:
            self.feed([value.mode, value.size, value.tobytes(), value.getpalette()])
        except AttributeError:  # a PIL object that is not an image
            self._object(value)

    def _tokenizer(self, value: Any) -> None:
        """Add a fast tokenizer by its serialized backend."""
        document = json.loads(value.backend_tokenizer.to_str())
        document.pop("truncation", None)  # truncation and padding are those of the last call
        document.pop("padding", None)
        self._bytes(type(value).__qualname__.encode())
        self.feed([document, value.special_tokens_map, value.padding_side, value.truncation_side])

    def _array(self, value: np.ndarray[Any, Any]) -> None:
        """Add an array by type, shape and bytes."""
        self._total.update(f"{value.dtype.str}|{value.shape}|".encode())
        if value.dtype.hasobject:
            for part in value.reshape(-1).tolist():
                self.feed(part)
        else:
            # NumPy exports no buffer of dates; a view as bytes works for every type.
            self._total.update(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data)

    def _function(self, value: types.FunctionType) -> None:
        """Add a function: the name of a library function, else code, globals, defaults and closure."""
        if _of_library(value.__module__):
            self._bytes(f"{value.__module__}.{value.__qualname__}".encode())
        else:
            self._code(value.__code__)
            self._referred(value.__globals__, sorted(_names(value.__code__)), set())
            for file in sorted(_imported(value.__code__, str(value.__globals__.get("__package__") or ""))):
                self.feed_file(file)
        self.feed([value.__defaults__, value.__kwdefaults__])
        for cell in value.__closure__ or ():
            try:
                self.feed(cell.cell_contents)
            except ValueError:  # a cell that is still empty
                self._total.update(b"empty")

    def _code(self, value: types.CodeType) -> None:
        """Add compiled code with its names and constants."""
        self._bytes(value.co_code)
        self.feed([value.co_names, value.co_varnames, value.co_freevars])
        for constant in value.co_consts:
            self.feed(constant)

    def _referred(self, place: Mapping[str, Any], names: list[str], entered: set[int]) -> None:
        """Add what names refer to in a module; ``helpers.scale`` is looked up in the user's ``helpers``."""
        for name in names:
            held = place.get(name)
            if not isinstance(held, types.ModuleType) or _of_library(held.__name__):
                if name in place:
                    self.feed([name, held])
            elif id(held) not in entered:
                entered.add(id(held))
                self._bytes(held.__name__.encode())
                self._referred(vars(held), names, entered)

    def _own_code(self, kind: type) -> None:
        """Add methods and attributes of a user-defined class, because an edit changes its values."""
        for base in kind.__mro__:
            if _of_library(base.__module__):
                continue
            for name, held in sorted(vars(base).items()):
                part = getattr(held, "__func__", held)
                if isinstance(part, property):
                    part = [part.fget, part.fset]
                elif isinstance(part, cached_property):
                    part = part.func
                special = name.startswith(("__", "_abc_")) and not isinstance(part, types.FunctionType)
                if special or "cache" in name.lower() or isinstance(part, _SLOTS):
                    continue
                self._bytes(name.encode())
                self.feed(part)

    def _unordered(self, values: Any) -> None:
        """Add values independently of their order."""
        digests = []
        for part in values:
            inner = _Hash()
            inner._known = self._known
            inner.feed(part)
            digests.append(inner._total.digest())
        for digest in sorted(digests):
            self._total.update(digest)

    def _bytes(self, data: bytes) -> None:
        """Add bytes with their length."""
        self._total.update(f"{len(data)}:".encode())
        self._total.update(data)


_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType)
"""Descriptors of attributes in C, whose values belong to instances."""

_WRITTEN_IN_PYTHON = 1 << 9
"""CPython's flag of a class that was made by a class statement."""


def _listed(slots: Any) -> tuple[str, ...]:
    """Names in ``__slots__``, which may be a single string."""
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _named(kind: type) -> str:
    """Name of a class, with its module for a library class."""
    return f"{kind.__module__}.{kind.__qualname__}" if _of_library(kind.__module__) else kind.__qualname__


def _names(code: types.CodeType) -> set[str]:
    """Names that code and its inner functions refer to."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


def _imported(code: types.CodeType, package: str) -> set[str]:
    """Files of the user's modules that code and its inner functions import when they run."""
    files = set()
    steps = list(dis.get_instructions(code))
    for number, step in enumerate(steps):
        if step.opname != "IMPORT_NAME":
            continue
        level = steps[number - 2].argval if number > 1 else 0
        dots = "." * level if isinstance(level, int) else ""
        try:
            found = importlib.util.find_spec(f"{dots}{step.argval}", package)
        except (ImportError, AttributeError, ValueError):  # an import that may fail in the function as well
            continue
        if found is not None and found.origin is not None and not _in_library(found.name, found.origin):
            files.add(found.origin)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            files |= _imported(constant, package)
    return files


def _of_library(name: str | None) -> bool:
    """Whether a module belongs to an installed library, which its version identifies."""
    file = None if name is None else getattr(sys.modules.get(name), "__file__", None)
    return name is None or _in_library(name, None if name == "__main__" else file)


def _in_library(name: str, file: str | None) -> bool:
    """Whether a module with a name and a file belongs to an installed library."""
    top = name.partition(".")[0]
    if top in ("repdyn", "repdyn_adapters", "builtins"):
        return True
    if file is None:
        return name in sys.builtin_module_names or top in sys.stdlib_module_names
    return any(folder in str(Path(file)) for folder in _LIBRARIES)
