"""Options and fixtures that every test may use."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="long campaigns instead of the share that every run takes")
    parser.addoption(
        "--amount",
        action="append",
        default=[],
        metavar="NAME=N",
        help="the size of one campaign (kills=2000), instead of its share or its campaign size; may be repeated",
    )


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> bool:
    """Long campaigns were asked for, and their figures are kept."""
    return bool(request.config.getoption("--torture"))


@pytest.fixture(scope="session")
def amount(request: pytest.FixtureRequest, campaign: bool) -> Callable[[str, int, int], int]:
    """``amount(name, share, full)``: how much of a campaign to run, unless ``--amount name=N`` says otherwise."""
    asked = dict(text.split("=", 1) for text in request.config.getoption("--amount"))

    def size(name: str, share: int, full: int) -> int:
        return int(asked.get(name, full if campaign else share))

    return size
