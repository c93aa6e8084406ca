import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="one image of two channels a case")
    parser.addoption("--dtype", default="float32", help="of x (float32)")
