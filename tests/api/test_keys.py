"""/api/v1/me says which key the caller has, and what the key may do."""

from datetime import datetime, timedelta

import pytest
from flask import Flask

from chat_service.api.fields import seconds
from chat_service.models import RateLimit, Scope
from chat_service.repository.api_keys import ApiKeys
from chat_service.repository.tenants import Tenants
from tests.client import Client, TenantAccess

ME = "/api/v1/me"


@pytest.mark.parametrize("scopes", [("read",), ("delete", "write"), ("delete", "read", "write")])
def test_any_key_may_read_its_own_scopes(app: Flask, new_tenant, scopes: tuple[str, ...]) -> None:
    client = Client(app, new_tenant(*scopes))
    answer = client.send("GET", ME)
    assert answer.status_code == 200
    assert answer.get_json() == {
        "tenant_id": client.access.tenant_id,
        "key_id": client.access.key_id,
        "label": answer.get_json()["label"],
        "scopes": [scope for scope in ("read", "write", "delete") if scope in scopes],
        "limits": {"read": None, "write": None, "delete": None},
        "expires_at": None,
    }
    assert answer.headers["Cache-Control"] == "no-store"


def test_it_shows_the_limits_in_force(app: Flask, new_tenant, either_database) -> None:
    """A tenant's own limit comes before the default."""
    client = Client(app, new_tenant())
    Tenants(either_database).set_limits(client.access.tenant_id, {Scope.WRITE: RateLimit(0.5, 10)})
    limits = client.send("GET", ME).get_json()["limits"]
    assert limits == {"read": None, "write": {"rate": 0.5, "burst": 10}, "delete": None}


def test_it_shows_when_the_key_expires_and_the_401_shows_it_too(
    app: Flask, new_tenant, either_database, monkeypatch
) -> None:
    access = new_tenant()
    key, made = ApiKeys(either_database).create(access.tenant_id, "", [Scope.READ], life=timedelta(days=90))
    client = Client(app, TenantAccess(access.tenant_id, key, made.id))
    assert datetime.fromisoformat(client.send("GET", ME).get_json()["expires_at"]) == made.expires_at
    monkeypatch.setattr(either_database, "now", lambda: made.expires_at)
    refusal = client.send("GET", ME)
    assert refusal.status_code == 401
    assert refusal.get_json()["code"] == "invalid_api_key"
    assert refusal.get_json()["expired_at"] == seconds(made.expires_at)
    unknown = Client(app, TenantAccess(access.tenant_id, key + "x", "")).send("GET", ME)
    assert "expired_at" not in unknown.get_json()
