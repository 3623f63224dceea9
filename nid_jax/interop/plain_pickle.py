"""Pickles of plain containers, read by a machine of our own that runs nothing and ends soon.

Python's own reader hashes and compares what a pickle tells it to: six hundred bytes of tuples of
tuples keep it busy for ever. Here the number of steps, the size and the depth are bounded, keys are
plain, and every name has a meaning that the caller gives.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from nid_jax.errors import reason

MOST_BYTES = 2**26
"""Of a pickle; numbers of tensors lie elsewhere."""
MOST_STEPS = 10**6
MOST_DEPTH = 100
"""Of tuples in tuples."""
MOST_WORTH = 10**6
"""Values in a tuple, those of tuples in it counted as often as they occur."""
_MOST_BITS = 1024

_MARK = object()
_PUSHED = {"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "INT", "LONG", "FLOAT"}
_PUSHED |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_IGNORED = {"PROTO", "FRAME"}


class Refused(ValueError):
    """What a pickle asks for is not given."""


def load(
    content: bytes,
    find: Callable[[str, str], Any],
    refer: Callable[[Any], Any],
    start: int = 0,
) -> tuple[Any, int]:
    """The value that a pickle builds, and where it ends.

    find: module and name -> what stands for it, called where the pickle calls it, with the
    arguments that it gives; refer: what stands for a reference to something outside. Raises
    Refused in one line, and what `find` and `refer` raise.
    """
    return _Machine(find, refer).run(content[start:], start)


class _Machine:
    def __init__(self, find, refer):
        self.find, self.refer = find, refer
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        # Of tuples, by identity, which lasts as long as `kept` holds them: (worth, depth).
        self.tuples: dict[int, tuple[int, int]] = {}
        self.kept: list[tuple] = []

    def run(self, content, start):
        steps = 0
        try:
            for opcode, argument, place in pickletools.genops(content):
                steps += 1
                if steps > MOST_STEPS:
                    raise Refused(f"its pickle takes more than {MOST_STEPS} steps")
                if opcode.name == "STOP":
                    return self.stack.pop(), start + place + 1
                self.step(opcode.name, argument)
        except Refused:
            raise
        # Of a damaged pickle the parser, an empty stack or an odd value make nearly anything.
        except Exception as error:
            raise Refused(f"is damaged: its pickle cannot be read: {reason(error)}") from error
        raise Refused("is damaged: its pickle has no end")

    def step(self, name, argument):
        stack = self.stack
        if name in _PUSHED:
            if isinstance(argument, int) and argument.bit_length() > _MOST_BITS:
                raise Refused(f"holds a number of {argument.bit_length()} bits")
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name in _IGNORED:
            pass
        elif name in ("GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "BINPERSID"):
            self.call(name, argument)
        else:
            self.contain(name)

    def contain(self, name):
        """Containers, and what is put into them."""
        stack = self.stack
        if name == "EMPTY_TUPLE":
            stack.append(())
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = tuple(stack[-count:])
            del stack[-count:]
            stack.append(self.tupled(items))
        elif name in ("TUPLE", "LIST", "DICT"):
            items = self.marked()
            if name == "TUPLE":
                stack.append(self.tupled(tuple(items)))
            elif name == "LIST":
                stack.append(items)
            else:
                stack.append({})
                self.put(items)
        elif name in ("APPEND", "APPENDS"):
            items = self.marked() if name == "APPENDS" else [stack.pop()]
            self.last(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self.marked() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self.put(items)
        elif name == "POP":
            stack.pop()
        else:
            raise Refused(f"has the opcode {name}, which plain containers do not need")

    def call(self, name, argument):
        stack = self.stack
        if name == "GLOBAL":
            module, _, what = argument.partition(" ")
            stack.append(self.find(module, what))
        elif name == "STACK_GLOBAL":
            what, module = stack.pop(), stack.pop()
            if not (isinstance(what, str) and isinstance(module, str)):
                raise Refused("names what is called by something else than text")
            stack.append(self.find(module, what))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if not isinstance(arguments, tuple) or not callable(function):
                raise Refused("calls something that it has not named")
            stack.append(function(*arguments))
        elif name == "BUILD":
            stack.pop()  # what a container has beside its entries, such as versions of modules
            if not isinstance(stack[-1], dict):
                raise Refused("is damaged: its pickle cannot be read: it changes what is no dict")
        else:
            stack.append(self.refer(stack.pop()))

    def marked(self):
        """What was put on the stack since the last mark."""
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise Refused("is damaged: its pickle lacks a mark")
        items = self.stack[place + 1 :]
        del self.stack[place:]
        return items

    def last(self, kind):
        found = self.stack[-1]
        if not isinstance(found, kind):
            raise Refused(f"is damaged: a {type(found).__name__} stands for a {kind.__name__}")
        return found

    def put(self, items):
        found = self.last(dict)
        if len(items) % 2:
            raise Refused("is damaged: a key has no value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not (key is None or isinstance(key, bool | int | float | str)):
                raise Refused(f"has a {type(key).__name__} as a key; allowed: text and numbers")
            found[key] = value

    def tupled(self, items):
        """A tuple that is not too deep and not worth too much."""
        known = [self.tuples.get(id(one), (1, 0)) for one in items if type(one) is tuple]
        worth = 1 + len(items) + sum(worth for worth, _ in known)
        depth = 1 + max((depth for _, depth in known), default=0)
        if depth > MOST_DEPTH or worth > MOST_WORTH:
            raise Refused("its tuples are nested too deeply")
        self.tuples[id(items)] = worth, depth
        self.kept.append(items)
        return items
