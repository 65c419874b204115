"""The metrics that dashboards rely on: their names, types and labels, and that traffic adds no series."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from router.model import Decision, OutcomeKind, Status, Verdict
from router.observe.histogram import Histogram
from router.observe.metrics import REJECTIONS, RouterMetrics
from router.ports import LaneMetrics, ListenerMetrics

LISTENER = "0.0.0.0:11112"

# The table of the operators' interface: family name (without the _total of counters), type, labels.
EXPECTED = {
    "dicom_router_associations": ("gauge", {"direction"}),
    "dicom_router_associations_rejected": ("counter", {"listener", "reason"}),
    "dicom_router_instances_received": ("counter", {"listener", "peer"}),
    "dicom_router_received_bytes": ("counter", {"listener", "peer"}),
    "dicom_router_store_responses": ("counter", {"status"}),
    "dicom_router_store_seconds": ("histogram", set()),
    "dicom_router_cut_through": ("counter", {"destination", "outcome"}),
    "dicom_router_deliveries": ("counter", {"destination", "outcome"}),
    "dicom_router_delivered_bytes": ("counter", {"destination"}),
    "dicom_router_delivery_seconds": ("histogram", {"destination"}),
    "dicom_router_queue_depth": ("gauge", {"destination"}),
    "dicom_router_queue_bytes": ("gauge", {"destination"}),
    "dicom_router_queue_oldest_seconds": ("gauge", {"destination"}),
    "dicom_router_destination_up": ("gauge", {"destination"}),
    "dicom_router_destination_paused": ("gauge", {"destination"}),
    "dicom_router_held_instances": ("gauge", set()),
    "dicom_router_dead_letters": ("gauge", set()),
    "dicom_router_quarantined_records": ("gauge", set()),
    "dicom_router_audit_queue_depth": ("gauge", set()),
    "dicom_router_audit_oldest_seconds": ("gauge", set()),
    "dicom_router_spool_bytes": ("gauge", set()),
    "dicom_router_spool_free_bytes": ("gauge", set()),
    "dicom_router_commit_seconds": ("histogram", set()),
    "dicom_router_commit_instances": ("histogram", set()),
    "dicom_router_rule_matches": ("counter", {"rule"}),
    "dicom_router_certificate_expires_seconds": ("gauge", {"listener", "destination"}),
    "dicom_router_listener_plain": ("gauge", {"listener"}),
    "dicom_router_config_last_reload_successful": ("gauge", set()),
    "dicom_router_config_last_reload_timestamp_seconds": ("gauge", set()),
    "dicom_router_event_loop_lag_seconds": ("histogram", set()),
    "dicom_router_build_info": ("gauge", {"version", "python"}),
}


def make() -> RouterMetrics:
    return RouterMetrics(
        destinations=["pacs", "vna"], listeners=[LISTENER], peers=["ct1"], rules=["all"], process=False
    )


def samples(metrics: RouterMetrics) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_names_types_and_labels_are_the_documented_ones() -> None:
    metrics = make()
    metrics.listener(LISTENER).rejected("unknown_peer")
    metrics.certificate_expires(LISTENER, "", 0.0)
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[family.name] = (family.type, labels)
        assert family.documentation
    assert found == EXPECTED


def test_no_created_series() -> None:
    assert b"_created" not in make().render()


def test_what_has_not_happened_yet_is_zero_and_there() -> None:
    found = samples(make())
    assert found["dicom_router_deliveries_total{destination=vna,outcome=dead}"] == 0
    assert found[f"dicom_router_instances_received_total{{listener={LISTENER},peer=unknown}}"] == 0
    for status in Status:
        assert found[f"dicom_router_store_responses_total{{status=0x{status:04X}}}"] == 0
    for reason in REJECTIONS:
        assert found[f"dicom_router_associations_rejected_total{{listener={LISTENER},reason={reason}}}"] == 0
    assert found["dicom_router_destination_up{destination=pacs}"] == 1
    assert found["dicom_router_config_last_reload_successful"] == 1


def test_every_reason_of_a_refusal_is_there_from_the_start_and_in_the_manual() -> None:
    root = Path(__file__).resolve().parents[2]
    sources = [*(root / "router" / "net").glob("*.py"), root / "router" / "app" / "router.py"]
    text = "\n".join(path.read_text() for path in sources)
    said = set(
        re.findall(r'Refusal\([^"\n]*"([a-z_]+)"|refused\("([a-z_]+)"|"(tls_[a-z_]+)"|2, 3, 1, "([a-z_]+)"', text)
    )
    reasons = {word for words in said for word in words if word}
    assert len(reasons) > 15
    assert reasons <= set(REJECTIONS)
    manual = (root / "docs" / "operations.md").read_text()
    assert not [reason for reason in REJECTIONS if f"`{reason}`" not in manual]


def test_receiving() -> None:
    metrics = make()
    listener: ListenerMetrics = metrics.listener(LISTENER)
    listener.association_opened()
    listener.association_opened()
    listener.association_closed()
    listener.rejected("too_many")
    listener.received("ct1", 1000)
    listener.received("ct1", 500)
    listener.response(0x0000, 0.004)
    listener.response(0xA700, 0.2)
    found = samples(metrics)
    assert found["dicom_router_associations{direction=in}"] == 1
    assert found[f"dicom_router_associations_rejected_total{{listener={LISTENER},reason=too_many}}"] == 1
    assert found[f"dicom_router_instances_received_total{{listener={LISTENER},peer=ct1}}"] == 2
    assert found[f"dicom_router_received_bytes_total{{listener={LISTENER},peer=ct1}}"] == 1500
    assert found["dicom_router_store_responses_total{status=0x0000}"] == 1
    assert found["dicom_router_store_responses_total{status=0xA700}"] == 1
    assert found["dicom_router_store_seconds_bucket{le=0.005}"] == 1
    assert found["dicom_router_store_seconds_count"] == 2
    assert found["dicom_router_store_seconds_sum"] == pytest.approx(0.204)


def test_what_a_destination_is_owed_that_is_not_configured_any_more() -> None:
    metrics = make()
    metrics.set_strangers({"gone": (3, 900, 60.0)})
    found = samples(metrics)
    assert found["dicom_router_queue_depth{destination=gone}"] == 3
    assert found["dicom_router_queue_bytes{destination=gone}"] == 900
    assert found["dicom_router_queue_oldest_seconds{destination=gone}"] == 60
    assert found["dicom_router_destination_up{destination=gone}"] == 0
    assert found["dicom_router_destination_up{destination=pacs}"] == 1
    metrics.set_strangers({})
    assert not [name for name in samples(metrics) if "gone" in name]


def test_delivering() -> None:
    metrics = make()
    lane: LaneMetrics = metrics.lane("pacs")
    assert metrics.lane("pacs") is lane
    for kind in OutcomeKind:
        lane.outcome(kind)
    lane.delivered(2048, 0.3)
    lane.up(False)
    lane.paused(True)
    lane.association_opened()
    lane.cut_through("given_up")
    metrics.set_queue("pacs", 7, 9000, 12.5)
    found = samples(metrics)
    assert found["dicom_router_cut_through_total{destination=pacs,outcome=given_up}"] == 1
    assert found["dicom_router_cut_through_total{destination=pacs,outcome=completed}"] == 0
    for kind in ("delivered", "warning", "retry", "dead"):
        assert found[f"dicom_router_deliveries_total{{destination=pacs,outcome={kind}}}"] == 1
    assert found["dicom_router_delivered_bytes_total{destination=pacs}"] == 2048
    assert found["dicom_router_delivery_seconds_count{destination=pacs}"] == 1
    assert found["dicom_router_delivery_seconds_count{destination=vna}"] == 0
    assert found["dicom_router_destination_up{destination=pacs}"] == 0
    assert found["dicom_router_destination_paused{destination=pacs}"] == 1
    assert found["dicom_router_associations{direction=out}"] == 1
    assert found["dicom_router_queue_depth{destination=pacs}"] == 7
    assert found["dicom_router_queue_bytes{destination=pacs}"] == 9000
    assert found["dicom_router_queue_oldest_seconds{destination=pacs}"] == 12.5


def test_keeping() -> None:
    metrics = make()
    metrics.set_held(3, 4)
    metrics.set_spool(100, 900)
    metrics.set_quarantined(5)
    metrics.set_audit(7, 2.5)
    metrics.listener("10.0.0.1:104")
    metrics.listener("10.0.0.1:2762")
    metrics.listens_plain("10.0.0.1:104")
    metrics.commit(0.003, 64)
    metrics.loop_lag(0.02)
    metrics.reloaded(True)
    at = samples(metrics)["dicom_router_config_last_reload_timestamp_seconds"]
    assert at > 1_700_000_000
    metrics.reloaded(False)
    found = samples(metrics)
    assert found["dicom_router_held_instances"] == 3
    assert found["dicom_router_dead_letters"] == 4
    assert found["dicom_router_spool_bytes"] == 100
    assert found["dicom_router_quarantined_records"] == 5
    assert found["dicom_router_listener_plain{listener=10.0.0.1:104}"] == 1
    assert found["dicom_router_listener_plain{listener=10.0.0.1:2762}"] == 0
    assert found["dicom_router_audit_queue_depth"] == 7
    assert found["dicom_router_audit_oldest_seconds"] == 2.5
    assert found["dicom_router_spool_free_bytes"] == 900
    assert found["dicom_router_commit_instances_bucket{le=64.0}"] == 1
    assert found["dicom_router_commit_instances_bucket{le=32.0}"] == 0
    assert found["dicom_router_event_loop_lag_seconds_count"] == 1
    assert found["dicom_router_config_last_reload_successful"] == 0
    assert found["dicom_router_config_last_reload_timestamp_seconds"] == at


def test_rules_follow_a_reload() -> None:
    metrics = make()
    metrics.decided(Decision(verdict=Verdict.ROUTE, rules=("all", "gone before")))
    metrics.set_rules(["all", "fresh"])
    metrics.decided(Decision(verdict=Verdict.ROUTE, rules=("all",)))
    found = {name: value for name, value in samples(metrics).items() if "rule_matches" in name}
    assert found == {
        "dicom_router_rule_matches_total{rule=all}": 2,
        "dicom_router_rule_matches_total{rule=fresh}": 0,
    }
    assert metrics.rule_matches() == {"all": 2, "fresh": 0}


def test_traffic_adds_no_series() -> None:
    metrics = make()
    before = set(samples(metrics))
    randomness = random.Random(1)
    listener = metrics.listener(LISTENER)
    for _ in range(20_000):
        name = f"AE{randomness.getrandbits(40):X}"
        listener.received(name, 10)
        metrics.decided(Decision(verdict=Verdict.ROUTE, rules=(name,)))
    assert set(samples(metrics)) == before
    assert samples(metrics)[f"dicom_router_instances_received_total{{listener={LISTENER},peer=unknown}}"] == 20_000


def test_two_routers_in_one_process_do_not_share_counts() -> None:
    one, two = make(), make()
    one.listener(LISTENER).received("ct1", 1)
    assert samples(one) != samples(two)


def test_the_process_itself_is_shown() -> None:
    assert b"process_open_fds" in RouterMetrics().render()


def test_one_received_object_costs_microseconds() -> None:
    code = (
        "import timeit; from router.observe.metrics import REJECTIONS, RouterMetrics\n"
        "m = RouterMetrics(destinations=['d'], listeners=['l'], peers=['p']); l = m.listener('l'); d = m.lane('d')\n"
        "def once(): l.received('p', 1); l.response(0, 0.002); d.outcome('delivered'); d.delivered(1, 0.01)\n"
        "print(min(timeit.repeat(once, number=2000, repeat=5)) / 2000 * 1e6)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert float(result.stdout) < 20


@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100), min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_every_value_once_and_up_to_its_bound(values: list[float], bounds: list[float]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    buckets = histogram.buckets()
    for bound, (_, count) in zip(bounds, buckets, strict=False):
        assert count == sum(value <= bound for value in values)
    assert buckets[-1] == ("+Inf", len(values))
    assert histogram.total == pytest.approx(sum(values))
