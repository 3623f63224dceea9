"""Arguments that cannot be: one line that names the argument, its value and what is allowed.

A caller in Python reads the argument's own name. Whoever typed a config reads the key it came from:
`named` puts the config's section before it.
"""

import tokenize
from collections.abc import Collection, Iterator
from contextlib import contextmanager

# Letters of a value that are shown.
_SHOWN = 200


class ArgumentError(ValueError):
    """An argument is not what is allowed. str(error) is 'ARGUMENT: VALUE; allowed: ALLOWED'."""

    def __init__(self, argument: str, value: object, allowed: str):
        self.argument, self.value, self.allowed = argument, value, allowed
        super().__init__(f"{argument}: {_shown(value)}; allowed: {allowed}")


def _shown(value: object) -> str:
    """In one line, cut where it is long: arrays have many."""
    text = " ".join((repr(value) if isinstance(value, str) else str(value)).split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


@contextmanager
def named(section: str, only: Collection[str] | None = None) -> Iterator[None]:
    """Errors of arguments inside name the key of a config: 'lam' becomes 'fit.ridge.lam'.

    only: the arguments that are keys of this section; None: all are.
    """
    try:
        yield
    except ArgumentError as error:
        if only is not None and error.argument not in only:
            raise
        key = f"{section}.{error.argument}"
        raise ArgumentError(key, error.value, error.allowed) from error


def reason(error: BaseException) -> str:
    """What a library says is wrong, in one line of no great length."""
    if isinstance(error, RecursionError | MemoryError):
        return "nested too deeply" if isinstance(error, RecursionError) else "too large"
    said: object = error.args[0] if isinstance(error, tokenize.TokenError) else error
    if isinstance(error, OSError) and error.strerror:
        said = error.strerror
    return " ".join(str(said).split())[:200] or type(error).__name__
