"""Reads pickles of arrays by the few opcodes that they use; nothing of them is looked up, called or built.

CIFAR is published as pickles of Python 2. Instead of an unpickler with a list of allowed names, which numpy's
own constructors turn into a crash (arrays of pointers into the file), this is a machine of its own: names
become marks, calls of marks become descriptions of arrays, and a description becomes an array only as plain
numbers of as many bytes as it has. It takes some tenths of a second for a batch of CIFAR's 10,000 images.

Three descriptions are known: `numpy.dtype(…)` with its state, `numpy._core.multiarray._reconstruct(…)` with
its state (protocols 0 to 4), and `numpy._core.numeric._frombuffer(bytes, dtype, shape, order)` (protocol 5).
"""

from __future__ import annotations

import math
import pickletools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rwkvclip_eval.errors import DamagedData, DataNotFound
from rwkvclip_models.files import read_bytes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LIMIT_BYTES = 512 << 20
MOST_STEPS = 1_000_000
"""Opcodes, each of which may take memory; CIFAR-100's training file has some hundred thousand."""
PLAIN = frozenset("biuf")
"""Kinds of numbers."""

NAMES = {
    "numpy dtype": "dtype",
    "numpy ndarray": "ndarray",
    "numpy.core.multiarray _reconstruct": "reconstruct",
    "numpy._core.multiarray _reconstruct": "reconstruct",
    "numpy.core.numeric _frombuffer": "frombuffer",
    "numpy._core.numeric _frombuffer": "frombuffer",
    "_codecs encode": "encode",
}
"""Module and name in a pickle → what this machine makes of it."""


class NoArrays(ValueError):
    """A pickle of something else than arrays, texts, numbers, lists and mappings."""


@dataclass(frozen=True)
class _Name:
    """A name that a pickle looks up.

    Attributes:
        what: it makes.
    """

    what: str


@dataclass
class _Kind:
    """A dtype being described.

    Attributes:
        text: as numpy writes it, without its byte order.
        order: of the bytes, `=` for this machine's.
    """

    text: str
    order: str = "="

    def made(self) -> np.dtype[Any]:
        try:
            kind = np.dtype(self.text).newbyteorder(cast("Any", self.order))
        except (TypeError, ValueError) as error:
            raise NoArrays(f"{self.text[:40]!r} is no type of numbers") from error
        if kind.kind not in PLAIN:
            raise NoArrays(f"arrays of {self.text[:40]} are not read")
        return kind


@dataclass
class _Array:
    """An array being described; its state makes it one.

    Attributes:
        array: once it is made.
    """

    array: np.ndarray[Any, Any] | None = None


_MARK = _Name("mark")


def load_pickle(path: Path) -> dict[str, Any]:
    """Return the mapping in a pickle of arrays; nothing else in it is built or run.

    Raises:
        DataNotFound: there is no such file.
        DamagedData: it is cut off, no mapping, or names something other than arrays.
    """
    if not path.is_file():
        raise DataNotFound(f"There is no {path}. Unpack the published archive there.")
    content = read_bytes(path, limit=LIMIT_BYTES, what="pickle", error=DamagedData)
    try:
        found = _Machine().run(content)
        if not isinstance(found, dict):
            raise NoArrays(f"it holds a {type(found).__name__}, expected a mapping")
        return {str(key): _finished(value) for key, value in found.items()}
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, ArithmeticError) as error:
        raise DamagedData(f"{path} is no pickle of arrays: {str(error)[:300]}. Fetch it again.") from error


def _finished(value: Any) -> Any:
    """Return a value of the mapping with the array that it describes."""
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, _Array | _Kind | _Name):
        raise NoArrays("it describes an array without its numbers")
    return value


class _Machine:
    """Stack and memory of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        """Return what the pickle leaves on the stack.

        Raises:
            NoArrays: it does what no pickle of arrays does.
        """
        for step, (opcode, argument, _) in enumerate(pickletools.genops(content)):
            if step > MOST_STEPS:
                raise NoArrays(f"it has more than {MOST_STEPS} steps")
            if opcode.name == "STOP":
                (found,) = self.stack
                return found
            if opcode.name in _VALUES:
                self.stack.append(argument)
            elif (done := _STEPS.get(opcode.name)) is not None:
                done(self, argument)
            else:
                raise NoArrays(f"opcode {opcode.name} is not read")
        raise NoArrays("it ends before its end")

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        place = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def pop(self) -> Any:
        """Take the topmost value."""
        found = self.stack.pop()
        if found is _MARK:
            raise NoArrays("a mark stands where a value should")
        return found

    def look_up(self, module_and_name: str) -> None:
        """Put the mark of a name on the stack."""
        if module_and_name not in NAMES:
            raise NoArrays(f"{module_and_name.replace(' ', '.')[:80]} is not allowed")
        self.stack.append(_Name(NAMES[module_and_name]))

    def call(self) -> None:
        """Describe what a call of a name would give."""
        arguments, name = self.pop(), self.pop()
        what = name.what if isinstance(name, _Name) else "a value"
        if not isinstance(arguments, tuple):
            raise NoArrays("it calls without arguments")
        if what == "dtype":
            self.stack.append(_Kind(_text(arguments[0])))
        elif what == "reconstruct":
            self.stack.append(_Array())
        elif what == "frombuffer":
            data, kind, shape, order = arguments
            self.stack.append(_Array(_array(data, kind, shape, columns_first=order == "F")))
        elif what == "encode":
            text, encoding = arguments
            if encoding != "latin1":
                raise NoArrays(f"encoding {str(encoding)[:40]!r} is not read")
            self.stack.append(_text(text).encode("latin1"))
        else:
            raise NoArrays(f"{what} is not called")

    def build(self) -> None:
        """Give what was described last its state."""
        state, made = self.pop(), self.stack[-1]
        if isinstance(made, _Kind):
            made.order = _text(state[1])
        elif isinstance(made, _Array) and made.array is None:
            _, shape, kind, columns_first, data = state
            made.array = _array(data, kind, shape, columns_first=bool(columns_first))
        else:
            raise NoArrays("it gives a state to what has none")

    def put(self, place: int) -> None:
        """Remember the topmost value."""
        self.memo[place] = self.stack[-1]

    def put_pairs(self, flat: list[Any]) -> None:
        """Add keys and values to the mapping on top."""
        mapping = self.stack[-1]
        if not isinstance(mapping, dict) or len(flat) % 2:
            raise NoArrays("keys and values stand where no mapping is")
        mapping.update(zip(flat[::2], flat[1::2], strict=True))

    def put_items(self, items: list[Any]) -> None:
        """Add items to the list on top."""
        listed = self.stack[-1]
        if not isinstance(listed, list):
            raise NoArrays("items stand where no list is")
        listed += items

    def put_mapping(self) -> None:
        """Make a mapping of what stands above the last mark."""
        pairs = self.pop_to_mark()
        self.stack.append({})
        self.put_pairs(pairs)

    def take(self, count: int) -> list[Any]:
        """Take the topmost values, the deepest first."""
        return [self.pop() for _ in range(count)][::-1]


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("latin1")
    if not isinstance(value, str):
        raise NoArrays("a text should stand there")
    return value


def _array(data: Any, kind: Any, shape: Any, *, columns_first: bool) -> np.ndarray[Any, Any]:
    """Return the array of plain numbers that bytes, type and shape describe."""
    raw = data.encode("latin1") if isinstance(data, str) else data
    if not isinstance(raw, bytes | bytearray) or not isinstance(kind, _Kind):
        raise NoArrays("an array is no bytes of a type")
    if not isinstance(shape, tuple) or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise NoArrays("an array has no shape")
    made = kind.made()
    if math.prod(shape) * made.itemsize != len(raw):
        raise NoArrays(f"an array of shape {str(shape)[:40]} has {len(raw)} bytes")
    return np.frombuffer(raw, made).reshape(shape, order="F" if columns_first else "C")


_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
        *(
            "STRING",
            "BINSTRING",
            "SHORT_BINSTRING",
            "UNICODE",
            "BINUNICODE",
            "SHORT_BINUNICODE",
            "BINUNICODE8",
        ),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
"""Opcodes whose argument is their value."""
_STEPS: dict[str, Callable[[_Machine, Any], object]] = {
    "PROTO": lambda machine, _: None,
    "FRAME": lambda machine, _: None,
    "MARK": lambda machine, _: machine.stack.append(_MARK),
    "NONE": lambda machine, _: machine.stack.append(None),
    "NEWTRUE": lambda machine, _: machine.stack.append(True),
    "NEWFALSE": lambda machine, _: machine.stack.append(False),
    "EMPTY_DICT": lambda machine, _: machine.stack.append({}),
    "EMPTY_LIST": lambda machine, _: machine.stack.append([]),
    "EMPTY_TUPLE": lambda machine, _: machine.stack.append(()),
    "DICT": lambda machine, _: machine.put_mapping(),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.stack.append(tuple(machine.take(1))),
    "TUPLE2": lambda machine, _: machine.stack.append(tuple(machine.take(2))),
    "TUPLE3": lambda machine, _: machine.stack.append(tuple(machine.take(3))),
    "APPEND": lambda machine, _: machine.put_items(machine.take(1)),
    "APPENDS": lambda machine, _: machine.put_items(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.put_pairs(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.put_pairs(machine.pop_to_mark()),
    "PUT": lambda machine, place: machine.put(place),
    "BINPUT": lambda machine, place: machine.put(place),
    "LONG_BINPUT": lambda machine, place: machine.put(place),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.stack.append(machine.memo[place]),
    "GLOBAL": lambda machine, name: machine.look_up(name),
    "STACK_GLOBAL": lambda machine, _: machine.look_up(" ".join(map(_text, machine.take(2)))),
    "REDUCE": lambda machine, _: machine.call(),
    "BUILD": lambda machine, _: machine.build(),
}
"""Opcode → what it does; all others are refused."""
