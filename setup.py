"""Builds the native modules; everything else about the project is in pyproject.toml."""

from Cython.Build import cythonize
from setuptools import Extension, setup

setup(
    ext_modules=cythonize(
        [
            Extension(
                "router._fastpdu",
                ["router/_fastpdu.pyx"],
                depends=["router/_sequence_tags.pxi"],
                extra_compile_args=["-O3", "-fno-strict-aliasing"],
            ),
            Extension(
                "router._fastdimse", ["router/_fastdimse.pyx"], extra_compile_args=["-O3", "-fno-strict-aliasing"]
            ),
            Extension("router._disk", ["router/_disk.pyx"], extra_compile_args=["-O3", "-fno-strict-aliasing"]),
        ],
        compiler_directives={"language_level": 3},
    )
)
