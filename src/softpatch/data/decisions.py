"""What a person decided on training images, and how that is written."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

Decision = Literal["keep", "reject", "unsure"]
NO_DECISIONS: Mapping[str, Decision] = MappingProxyType({})
