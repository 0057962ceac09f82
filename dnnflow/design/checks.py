"""Check single values that designs are made of."""

from dnnflow.errors import DesignError

_FLAGS = frozenset({"nesterov", "amsgrad", "centered"})
_BELOW_ONE = frozenset({"beta_1", "beta_2", "rho"})
_WHOLE = frozenset({"every", "patience"})


def require(condition: bool, rule: str, got: object) -> None:
    """Raise `DesignError` with the rule and what was got, unless the condition holds."""
    if not condition:
        raise DesignError(f"{rule}, got {got!r}")


def whole(value: object) -> bool:
    """Say whether a value is a whole number; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def number(name: str, value: object) -> float:
    """Return a number as a float, so that 1 and 1.0 are the same value, or refuse what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DesignError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:  # a whole number of more than 308 digits
        raise DesignError(f"{name} must be a number that a computer can hold, got one too large") from None


def optimizer_value(name: str, value: object) -> bool | float:
    """Return a parameter of an optimizer as the one type it has, or refuse it."""
    if name in _FLAGS:
        require(isinstance(value, bool), f"{name} must be true or false", value)
        return bool(value)
    found = number(name, value)
    if name == "epsilon":
        require(1e-30 <= found <= 1.0, "epsilon must be in [1e-30, 1]", value)  # float32 knows no less
    elif name in _BELOW_ONE:
        require(0.0 <= found < 1.0, f"{name} must be in [0, 1)", value)
    else:
        require(0.0 <= found <= 1.0, f"{name} must be in [0, 1]", value)
    return found


def schedule_value(kind: str, name: str, value: object) -> float:
    """Return a parameter of a schedule as the one type it has, or refuse it."""
    what = f"schedule {kind}: {name}"
    found, top = number(what, value), float("inf") if name == "min_delta" else 1.0
    if name in _WHOLE:
        require(found.is_integer() and found >= 1, f"{what} must be a whole number >= 1", value)
        return int(found)
    require(0.0 <= found <= top, f"{what} must be in [0, {top}]", value)
    return found
