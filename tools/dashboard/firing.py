"""Each alert fires for its condition, and for nothing else: promtool evaluates the rules on synthetic series."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.dashboard import definition

_AT = "25m"
_REQUESTS = "stack_http_request_duration_seconds_count"
_ADMISSION = "stack_gateway_admission_seconds_bucket"

HEALTHY: Mapping[str, str] = {
    'stack_quota_drift_key_days{kind="over_limit"}': "0x30",
    "stack_quota_verified_timestamp_seconds": "0+60x30",
    "stack_quota_oldest_hold_age_seconds": "170x30",
    "stack_gateway_holds_left_total": "0+0.5x30",
    "stack_ledger_rows_after_close_total": "7x30",
    f'{_REQUESTS}{{route="chat", status="200"}}': "0+100x30",
    f'{_REQUESTS}{{route="chat", status="429"}}': "0+500x30",
    f'{_REQUESTS}{{route="chat", status="503"}}': "0+5x30",
    f'{_REQUESTS}{{route="readyz", status="503"}}': "0+90x30",
    f'{_ADMISSION}{{le="0.1"}}': "0+600x30",
    f'{_ADMISSION}{{le="0.5"}}': "0+600x30",
    f'{_ADMISSION}{{le="+Inf"}}': "0+600x30",
    "stack_key_watch_up": "1x30",
    "stack_mail_server_up": "1x30",
    'stack_emails_total{result="given_up"}': "3x30",
    'stack_emails_total{result="refused"}': "0x20 4x10",
    'stack_upstream_key_usable{key="1"}': "0x30",
    'stack_upstream_key_usable{key="2"}': "1x30",
    'stack_upstream_key_cooldowns{key="1"}': "2x30",
    'stack_upstream_key_cooldowns{key="2"}': "0x30",
    "stack_upstream_queue_refused_total": "0+3x30",
    'stack_upstream_allowance_left{key="1", model="m", window="requests_per_day"}': "5x30",
    'stack_upstream_allowance_left{key="1", model="m", window="tokens_per_minute"}': "0x30",
    'stack_upstream_allowance_calls_total{call="acquire", result="failed"}': "3x30",
    "stack_ledger_rows_waiting": "150x30",
    "stack_ledger_rollup_lag_seconds": "200x30",
    "stack_ledger_commit_failures_total": "3x30",
}
"""Series with a sample per minute: acceptable values, close to the threshold."""

TROUBLE: Mapping[str, Mapping[str, str]] = {
    "StackCountersDiffer": {'stack_quota_drift_key_days{kind="over_limit"}': "1x30"},
    "StackVerificationStale": {"stack_quota_verified_timestamp_seconds": "0x30"},
    "StackHoldOverdue": {"stack_quota_oldest_hold_age_seconds": "430x30"},
    "StackHoldsLeft": {"stack_gateway_holds_left_total": "0+1x30"},
    "StackRowsAfterClose": {"stack_ledger_rows_after_close_total": "0x20 1x10"},
    "StackModelWithoutPrice": {"stack_ledger_rows_without_price_total": "0x20 1x10"},
    "StackServerErrors": {f'{_REQUESTS}{{route="chat", status="503"}}': "0+20x30"},
    "StackAdmissionSlow": {f'{_ADMISSION}{{le="0.1"}}': "0+590x30"},
    "StackKeyWatchDown": {"stack_key_watch_up": "1x20 0x10"},
    "StackMailServerDown": {"stack_mail_server_up": "1x10 0x20"},
    "StackEmailsLost": {'stack_emails_total{result="given_up"}': "0x20 1x10"},
    "StackGroqKeysRefused": {'stack_upstream_key_usable{key="2"}': "0x30"},
    "StackGroqKeysCoolingDown": {'stack_upstream_key_cooldowns{key="2"}': "1x30"},
    "StackGroqQueueRefuses": {"stack_upstream_queue_refused_total": "0+30x30"},
    "StackGroqDayUsedUp": {'stack_upstream_allowance_left{key="1", model="m", window="requests_per_day"}': "0x30"},
    "StackGroqViewNotShared": {'stack_upstream_allowance_calls_total{call="acquire", result="failed"}': "0+5x30"},
    "StackLedgerRowsWait": {"stack_ledger_rows_waiting": "900x30"},
    "StackRollupsLag": {"stack_ledger_rollup_lag_seconds": "400+60x30"},
    "StackLedgerCommitsFail": {"stack_ledger_commit_failures_total": "0+1x30"},
}
"""The condition of each alert, in place of the acceptable values."""


def check(folder: Path) -> int:
    """Evaluate the rules on all cases; return how many cases there were.

    Raises:
        RuntimeError: An alert did not fire, or another one did; or an alert has no case.
    """
    names = {alert.name for alert in definition.alerts()}
    if names != TROUBLE.keys():
        raise RuntimeError(f"alerts without a case, or cases without an alert: {sorted(names ^ TROUBLE.keys())}")
    rules, tests = folder / "played.yml", folder / "played-tests.yml"
    rules.write_text(yaml.safe_dump(definition.rule_groups()))
    cases = [_case(HEALTHY, []), *(_case({**HEALTHY, **series}, [name]) for name, series in TROUBLE.items())]
    tests.write_text(yaml.safe_dump({"rule_files": [rules.name], "tests": cases}))
    done = subprocess.run(["promtool", "test", "rules", str(tests)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"promtool: {done.stdout}{done.stderr}")
    return len(cases)


def _case(series: Mapping[str, str], firing: list[str]) -> dict[str, Any]:
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in firing]
    return {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": _AT,
                "exp_samples": expected,
            }
        ],
    }
