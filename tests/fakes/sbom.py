"""Bills of materials as the formats' own libraries see them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any


@cache
def _validator() -> Any:
    # Imported only where it is used, since what it imports takes a second in every worker.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    return JsonStrictValidator(SchemaVersion.V1_5)


def check_cyclonedx(data: bytes) -> None:
    """Fails unless `data` is a valid CycloneDX document."""
    assert _validator().validate_str(data.decode()) is None


def check_spdx(path: Path) -> None:
    """Fails unless the file, which ends with `.spdx.json`, is a valid SPDX document."""
    from spdx_tools.spdx.parser.parse_anything import parse_file
    from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

    assert [str(issue) for issue in validate_full_spdx_document(parse_file(str(path)))] == []
