"""The plan page: where "Upgrade to Pro" leads, and how plans are compared."""

import pytest
from pydantic import ValidationError

from services.common.limits import parse_limits
from services.gateway.console.ports import Plan, Session
from services.gateway.console.views.plan import PlanRow, compare, upgrade_link
from services.gateway.settings import GatewaySettings

_SESSION = Session("ses_1", "acc_1", "ada+1@example.com", "free", 0, 1, 0, "", True, "acc_0")


@pytest.mark.parametrize(
    ("upgrade", "link"),
    [
        ("sales@example.com", "mailto:sales@example.com?subject=Upgrade%20to%20Pro%20%28acc_1%29"),
        ("https://pay.example.com/pro", "https://pay.example.com/pro"),
        (
            "https://pay.example.com/{account_id}?mail={email}&again={email}",
            "https://pay.example.com/acc_1?mail=ada%2B1%40example.com&again=ada%2B1%40example.com",
        ),
    ],
)
def test_upgrade_leads_to_an_email_or_to_a_checkout_that_knows_the_account(upgrade: str, link: str) -> None:
    assert GatewaySettings(upgrade=upgrade).upgrade == upgrade
    assert upgrade_link(upgrade, _SESSION) == link


@pytest.mark.parametrize("upgrade", ["javascript:alert(1)", "//pay.example.com", "https://", "sales", "a@b c", "a@b\n"])
def test_another_address_stops_the_start(upgrade: str) -> None:
    with pytest.raises(ValidationError, match="expected an e-mail address, or a URL"):
        GatewaySettings(upgrade=upgrade)


def test_plans_are_compared_limit_by_limit() -> None:
    free = Plan("free", 1_000, None, 5, 10, parse_limits(["account:cost:month=$1.5", "key:tokens:minute=6000"]), 1)
    pro = Plan("pro", 10_000, 50_000, 50, 100, parse_limits(["account:concurrent_requests=20"]), 4)

    assert compare(free, pro) == [
        PlanRow("Requests per day, each key", "1,000", "10,000"),
        PlanRow("Requests per day, account", "no limit", "50,000"),
        PlanRow("Cost per month, account", "$1.50", "no limit"),
        PlanRow("Tokens per minute, each key", "6,000", "no limit"),
        PlanRow("Requests in progress, account", "no limit", "20"),
        PlanRow("Active API keys", "5", "50"),
        PlanRow("New API keys per day", "10", "100"),
        PlanRow("Share of capacity when it is scarce", "1x", "4x"),
    ]
    assert compare(free, None)[0] == PlanRow("Requests per day, each key", "1,000", "")
