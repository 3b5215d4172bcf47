"""What the requests of different job types have in common."""

from __future__ import annotations

from typing import Any

import pytest

from worker_core.request_fields import tenant_in


@pytest.mark.parametrize(
    ("metadata", "tenant"),
    [
        ({}, None),
        ({"tenant": None}, None),
        ({"tenant": "acme", "trace": "t"}, "acme"),
        ({"tenant": ""}, ""),
        ({"tenant": 7}, "7"),
        ({"tenant": {"id": 7}}, '{"id":7}'),
        ({"Tenant": "acme"}, None),
    ],
)
def test_a_tenant_is_what_the_metadata_says(metadata: dict[str, Any], tenant: str | None) -> None:
    assert tenant_in(metadata) == tenant
