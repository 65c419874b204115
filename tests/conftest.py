"""Options and fixtures that every test may use."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="long campaigns instead of the share that every run takes")
    parser.addoption("--kills", type=int, default=None, help="SIGKILLs in the kill loop")


@pytest.fixture
def torture_kills(request: pytest.FixtureRequest) -> int:
    kills: int | None = request.config.getoption("--kills")
    if kills is not None:
        return kills
    return 200 if request.config.getoption("--torture") else 12
