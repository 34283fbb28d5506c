"""Kubernetes quantities, like ``500m`` or ``2Gi``, as exact numbers."""

from __future__ import annotations

import re
from decimal import Decimal

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_QUANTITY = re.compile(
    r"([0-9]{1,30}(?:\.[0-9]{0,30})?|\.[0-9]{1,30})(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?[0-9]{1,2}))?", re.ASCII
)
_BINARY = {unit: Decimal(1024**power) for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}
_DECIMAL = {
    unit: Decimal(10) ** power for unit, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_LARGEST = Decimal(2**63 - 1)
_WORDS = "a quantity above 0, like 500m, 2 or 1.5Gi"


def parse_quantity(text: str) -> Decimal:
    """Return what a quantity is worth, in CPUs or bytes; ValueError if it is none or not above 0."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"expected {_WORDS}, got {text[:40]!r}")
    number, binary, decimal, exponent = found.groups()
    value = Decimal(number)
    if binary:
        value *= _BINARY[binary]
    elif decimal:
        value *= _DECIMAL[decimal]
    elif exponent:
        value = value.scaleb(int(exponent))
    if not 0 < value <= _LARGEST:
        raise ValueError(f"expected {_WORDS}, at most {_LARGEST}, got {text[:40]!r}")
    return value


def check_quantity(text: str) -> str | None:
    """Refuse what is no quantity above 0."""
    try:
        parse_quantity(text)
    except ValueError as error:
        return str(error)
    return None
