"""Builds the native modules; everything else about the project is in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

# Fuzzers and sanitizers build with less (tests/fuzz/native.py).
OPTIMIZATION = os.environ.get("NATIVE_OPTIMIZATION", "-O3")

setup(
    ext_modules=cythonize(
        [
            Extension(
                f"router.{name}",
                [f"router/{name}.pyx"],
                depends=["router/_sequence_tags.pxi"] if name == "_walker" else [],
                extra_compile_args=[OPTIMIZATION, "-fno-strict-aliasing"],
            )
            for name in sorted(path.stem for path in (Path(__file__).parent / "router").glob("_*.pyx"))
        ],
        compiler_directives={"language_level": 3},
    )
)
