"""One target under atheris: ``python -m tests.fuzz.one TARGET [options of libFuzzer] [corpus ...]``.

The router and the plain references are instrumented; so are the native modules, if they were built for it
(``tests.fuzz.native``). Ends by itself as the options say, or at the first input that breaks the target's promise.
"""

from __future__ import annotations

import logging
import shlex
import sys
import warnings

import atheris


def main() -> None:
    name, *arguments = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable()
    with atheris.instrument_imports(include=["router", "tests.support"]):
        from tests.fuzz.targets import TARGETS
    # Where libFuzzer starts itself once more, to merge corpora, a shell does it.
    atheris.Setup([f"{shlex.quote(sys.executable)} -m tests.fuzz.one {name}", *arguments], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
