"""What records of settings check of themselves, in one wording."""

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from onceedit_jax.errors import InputError

LARGEST = 2**63 - 1  # of whole numbers


def check_settings(
    settings: Any,
    *,
    above_zero: Collection[str] = (),
    not_negative: Collection[str] = (),
    at_most: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Refuse values that would be taken for something else further on.

    Args:
      settings: a dataclass; whatever it declares as a `Literal` has to be one of its values, and
        its numbers have to be finite and no larger than the machine can count.
      above_zero: names of numbers that must be more than 0; None stands for a choice made later.
      not_negative: names of numbers that must be 0 or more.
      at_most: the largest value of numbers with which the work would not end.

    Raises:
      InputError: naming the setting, its value and what was expected.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        parts = (kind, *get_args(kind))
        choices = [each for part in parts if get_origin(part) is Literal for each in get_args(part)]
        left_open = value is None and type(None) in parts
        if choices and value not in choices and not left_open:
            raise InputError(f"setting {name}={value}: expected one of {', '.join(choices)}")
        if type(value) in (int, float):
            most = at_most.get(name, LARGEST if type(value) is int else math.inf)
            if not (math.isfinite(value) and value <= most):
                raise InputError(
                    f"setting {name}={value}: expected a finite number, at most {most:g}"
                )
    for name in above_zero:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise InputError(f"setting {name}={value}: must be above 0")
    for name in not_negative:
        if not getattr(settings, name) >= 0:
            raise InputError(f"setting {name}={getattr(settings, name)}: must be 0 or more")
