"""The registries of the standard (PS3.6), as pydicom has them, without pydicom.

Its package brings decoders of pixels, numpy and a client for downloads: a third of a second and 20 MB for a router that
never looks at a pixel. The registries themselves are modules of nothing but data, and are loaded alone, each at the
first question.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

Entry = tuple[str, str, str, str, str]
"""Of an element: VR, VM, name, "Retired" or "", keyword. Of a UID: name, type, what else there is to say, "Retired" or
"", keyword."""


def elements() -> dict[int, Entry]:
    """By tag; those of repeating groups are not among them."""
    found: dict[int, Entry] = _load("_dicom_dict").DicomDictionary
    return found


def repeating_elements() -> dict[str, Entry]:
    """By their tag in eight hexadecimal digits, of which some are ``x``: any digit (PS3.5 §7.6)."""
    found: dict[str, Entry] = _load("_dicom_dict").RepeatersDictionary
    return found


def uids() -> dict[str, Entry]:
    found: dict[str, Entry] = _load("_uid_dict").UID_dictionary
    return found


@lru_cache(maxsize=2)
def _load(name: str) -> ModuleType:
    package = find_spec("pydicom")  # finds a package without running it
    places = package.submodule_search_locations if package is not None else None
    spec = PathFinder.find_spec(name, places)
    if spec is None or spec.loader is None:
        raise ImportError(f"pydicom has no {name}: it is not installed, or of a version that keeps it elsewhere")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
