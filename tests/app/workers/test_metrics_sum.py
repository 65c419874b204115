"""The metrics of several workers as those of one router."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from router.app.workers.metrics_sum import MetricsSum
from router.model import Decision, Verdict
from router.observe.metrics import RouterMetrics


def values(text: str) -> dict[str, float]:
    """Every sample, as Prometheus reads it."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={text}" for name, text in sorted(sample.labels.items()))
            assert (sample.name, labels) not in found
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def worker(received: int, *, depth: int = 0, up: bool = True, process: bool = False) -> RouterMetrics:
    metrics = RouterMetrics(destinations=["pacs"], listeners=["l"], peers=["ct"], rules=["r"], process=process)
    listener = metrics.listener("l")
    for _ in range(received):
        listener.received("ct", 10)
        listener.response(0, 0.002)
        metrics.decided(Decision(verdict=Verdict.ROUTE, destinations=("pacs",), rules=("r",), version="v"))
    listener.association_opened()
    metrics.lane("pacs").up(up)
    metrics.set_queue("pacs", depth, depth * 10, depth / 2)
    metrics.set_held(2, 1)
    metrics.set_spool(100, 1000 + depth)
    metrics.reloaded(up)
    return metrics


def text(metrics: RouterMetrics) -> str:
    return metrics.render().decode()


def test_counters_and_histograms_sum_up_and_gauges_as_they_mean() -> None:
    found = values(
        MetricsSum().text({"0": (0, text(worker(3, depth=4))), "1": (0, text(worker(5, depth=6, up=False)))})
    )
    assert found["dicom_router_instances_received_total{listener=l,peer=ct}"] == 8
    assert found["dicom_router_received_bytes_total{listener=l,peer=ct}"] == 80
    assert found["dicom_router_store_seconds_count{}"] == 8
    assert found["dicom_router_store_seconds_bucket{le=0.0025}"] == 8
    assert found["dicom_router_store_seconds_bucket{le=0.001}"] == 0
    assert found["dicom_router_rule_matches_total{rule=r}"] == 8
    assert found["dicom_router_associations{direction=in}"] == 2
    assert found["dicom_router_queue_depth{destination=pacs}"] == 6
    assert found["dicom_router_queue_oldest_seconds{destination=pacs}"] == 3
    assert found["dicom_router_destination_up{destination=pacs}"] == 0
    assert found["dicom_router_held_instances{}"] == 2
    assert found["dicom_router_spool_bytes{}"] == 200
    assert found["dicom_router_spool_free_bytes{}"] == 1004
    assert found["dicom_router_config_last_reload_successful{}"] == 0
    assert [value for name, value in found.items() if "build_info" in name] == [1]


def test_one_worker_alone_is_shown_as_it_is() -> None:
    alone = text(worker(3, depth=4))
    assert values(MetricsSum().text({"0": (0, alone)})) == values(alone)


def test_counters_never_fall_when_a_worker_dies_or_starts_again() -> None:
    name = "dicom_router_instances_received_total{listener=l,peer=ct}"
    total = MetricsSum()
    other = text(worker(10))
    assert values(total.text({"0": (0, other), "1": (0, text(worker(5)))}))[name] == 15
    assert values(total.text({"0": (0, other)}))[name] == 15, "it is down"
    assert values(total.text({"0": (0, other), "1": (1, text(worker(2)))}))[name] == 17
    assert values(total.text({"0": (0, other), "1": (1, text(worker(4)))}))[name] == 19
    assert values(total.text({"0": (0, other), "1": (2, text(worker(0)))}))[name] == 19


def test_what_is_said_of_a_process_is_said_of_each() -> None:
    found = values(
        MetricsSum().text({"0": (0, text(worker(0, process=True))), "1": (0, text(worker(0, process=True)))})
    )
    assert found["process_open_fds{worker=0}"] > 0
    assert found["process_open_fds{worker=1}"] > 0
    assert "process_open_fds{}" not in found


def test_no_worker_at_all_shows_nothing() -> None:
    assert values(MetricsSum().text({})) == {}
