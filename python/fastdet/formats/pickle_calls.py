# SPDX-License-Identifier: Apache-2.0
"""What a call in a checkpoint's pickle means: a few are carried out here, the rest is recorded or refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastdet.formats.errors import shown
from fastdet.formats.unpickle import Global, PickleError, Record, hashable

Calls = Mapping[str, Callable[[tuple], Any]]

# Nothing is ever called, so no list is needed for safety. But a file that asks for the standard library beyond these
# plain containers is no checkpoint, and its owner should hear of it.
_HARMLESS = frozenset(
    """
    argparse.Namespace array.array array._array_reconstructor builtins.bool builtins.bytearray builtins.bytes
    builtins.complex builtins.dict builtins.float builtins.frozenset builtins.int builtins.list builtins.object
    builtins.range builtins.set builtins.slice builtins.str builtins.tuple collections.Counter collections.OrderedDict
    collections.defaultdict collections.deque copyreg.__newobj__ copyreg.__newobj_ex__ copyreg._reconstructor
    datetime.date datetime.datetime datetime.time datetime.timedelta datetime.timezone decimal.Decimal
    fractions.Fraction functools.partial io.BytesIO io.StringIO logging.Logger logging.getLogger pathlib.Path
    pathlib.PosixPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath pathlib.WindowsPath random.Random
    builtins.type builtins.xrange re._compile time.struct_time types.SimpleNamespace typing.Any uuid.SafeUUID
    uuid.UUID _codecs.encode
    """.split()
)
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_STANDARD = frozenset(sys.stdlib_module_names) | frozenset(
    "commands cPickle cStringIO exceptions httplib popen2 urllib2 urlparse xmlrpclib thread nt posix".split()
)
# Of other packages, what runs code or opens files and connections.
_HOSTILE = (
    "torch.hub.", "torch.load", "torch.serialization.load", "torch.jit.", "torch.package.",
    "torch.utils.cpp_extension.", "torch.utils.model_zoo.", "torch.utils._config_module.", "torch.distributed.",
    "torch.multiprocessing.", "torch._inductor.", "torch._dynamo.", "numpy.testing.", "numpy.f2py.",
    "numpy.distutils.", "numpy.load", "numpy.save", "numpy.fromfile", "numpy.memmap", "pandas.eval", "pandas.read_",
    "pip.", "setuptools.", "pkg_resources.", "pytest.", "_pytest.", "IPython.", "joblib.", "dill.", "cloudpickle.",
    "yaml.", "requests.", "urllib3.", "httpx.", "aiohttp.", "paramiko.", "fsspec.", "tensorflow.", "keras.", "sympy.",
    "cffi.", "numba.",
)  # fmt: skip


def refuse_hostile(kind: Global) -> None:
    """Raise PickleError, naming it, where ``kind`` is something that a checkpoint has no reason to call."""
    if is_hostile(kind):
        raise PickleError(
            f"calls {shown(repr(kind))}, which no checkpoint needs: treat the file as hostile (nothing in it was run)"
        )


def is_hostile(value: Any) -> bool:
    """Whether ``value`` is a Global of the standard library beyond plain containers, or one known to run things."""
    if not isinstance(value, Global):
        return False
    module = _PYTHON_2.get(value.module, value.module)
    name = f"{module}.{value.name}"
    if module.partition(".")[0] in _STANDARD:
        return name not in _HARMLESS and module != "math"
    return name.startswith(_HOSTILE)


def call(kind: Global, args: tuple, known: Calls) -> Any:
    """The value of ``kind(*args)``: by ``known`` where that names it, else a Record; PickleError if it is hostile."""
    name = f"{_PYTHON_2.get(kind.module, kind.module)}.{kind.name}"
    if name in known:
        return known[name](args)
    if name == "builtins.getattr":
        return _attribute(kind, args)
    if name.startswith("copyreg._"):  # made(cls, ...): the object is one of cls
        if not args or not isinstance(args[0], Global):
            raise PickleError("makes an object of something that is no class")
        kind, args = args[0], args[1:]
    refuse_hostile(kind)
    for value in args:
        if isinstance(value, Global):
            refuse_hostile(value)
    return Record(kind, args)


def _attribute(kind: Global, args: tuple) -> Record:
    """``getattr(class, "NAME")`` is how some Pythons write members of an enumeration; more of it is not needed."""
    if len(args) != 2 or not isinstance(args[0], (Global, Record)) or not isinstance(args[1], str):
        refuse_hostile(kind)
    if is_hostile(args[0]) or not args[1].isidentifier() or args[1].startswith("_"):
        refuse_hostile(kind)
    return Record(kind, args)


# ---- plain containers ----------------------------------------------------------------------------------------------


def ordered_dict(args: tuple) -> dict[Any, Any]:
    """``OrderedDict()``, or ``OrderedDict([[key, value], ...])`` as Python 2 wrote it."""
    if not args:
        return {}
    if len(args) != 1 or not isinstance(args[0], (list, tuple)):
        raise PickleError("has an OrderedDict made from something else than a list")
    if any(not isinstance(pair, (list, tuple)) or len(pair) != 2 for pair in args[0]):
        raise PickleError("has an OrderedDict made from something else than pairs")
    return {hashable(key): value for key, value in args[0]}


def make_set(args: tuple) -> set[Any]:
    """``set([...])``."""
    if len(args) != 1 or not isinstance(args[0], (list, tuple)):
        raise PickleError("has a set made from something else than a list")
    return set(map(hashable, args[0]))


def parameter(args: tuple) -> np.ndarray:
    """``_rebuild_parameter(tensor, requires_grad, hooks[, state])``."""
    if len(args) not in (3, 4) or not isinstance(args[0], np.ndarray):
        raise PickleError("has a parameter made from something else than a tensor")
    return args[0]


def encode(args: tuple) -> bytes:
    """``_codecs.encode(text, "latin1")``, how Python 3 writes bytes in protocol 2."""
    if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
        raise PickleError("encodes text otherwise than in latin1")
    return args[0].encode("latin1")
