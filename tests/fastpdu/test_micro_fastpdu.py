"""The micro-benchmark runs, so that it does not rot."""

from __future__ import annotations

from benchmarks import micro_fastpdu
from router._walker import ElementWalker


def test_the_benchmark_measures_every_case(capsys):
    micro_fastpdu.main(share=0.001)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 11
    assert all(" us" in line for line in lines)


def test_its_data_set_is_whole():
    data = micro_fastpdu.ct_image(16384)
    assert len(data) == 16384
    walker = ElementWalker(explicit=True, little_endian=True, wanted=micro_fastpdu.WANTED)
    walker.feed(data)
    walker.finish()
    assert walker.past_header
