"""How long one decision takes: 100 rules of the usual kinds over the head of a CT slice.

Usage: python -m benchmarks.micro_rules [RULES]
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from router.dicom.attributes import Attributes
from router.dicom.dictionary import tag_of, vr_of
from router.routing import RuleFacts, RuleSet, load

OBJECTS, ROUNDS = 1000, 7
"""The best of several rounds: the others had company."""
HEAD = {
    "Modality": b"CT",
    "StudyDescription": b"CHEST W/O CONTRAST",
    "SeriesDescription": b"LUNG 1.0 B70f",
    "BodyPartExamined": b"CHEST ",
    "SliceThickness": b"1.0 ",
    "ImageType": b"ORIGINAL\\PRIMARY\\AXIAL",
    "InstitutionName": b"ST ELSEWHERE",
    "PatientID": b"12345678",
    "StudyDate": b"20260131",
}
KINDS = (
    'match = {{ Modality = ["MR", "PT"], StationName = "SCANNER{n}" }}',
    'match = {{ CallingAET = "CT{n}*", Modality = "CT" }}',
    'match = {{ StudyDescription = {{ regex = "(?i)thorax|knee {n}" }} }}',
    "match = {{ SliceThickness = {{ max = 0.{n} }} }}",
    'match = {{ BodyPartExamined = "CHEST", SeriesDescription = "*SOFT {n}*" }}',
    'match = {{ ImageType = "LOCALIZER", Modality = "CT" }}',
    'match = {{ Modality = "CT", InstitutionName = "ST*" }}\nnot = {{ PatientID = "{n}*" }}',
    'any = [{{ Modality = "US" }}, {{ StudyDescription = "ABDOMEN {n}*" }}]',
    'match = {{ PeerAddress = "10.{n}.0.0/16" }}',
    'match = {{ SOPClass = "MRImageStorage" }}',
)


def rule_set(count: int) -> RuleSet:
    rules = [
        f'[[rule]]\nname = "rule {n}"\n{KINDS[n % len(KINDS)].format(n=n)}\nto = ["pacs{n % 3}"]\n'
        for n in range(count)
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "rules.toml").write_text("\n".join(rules), "utf-8")
        return load(Path(folder), [f"pacs{n}" for n in range(3)])


def attributes() -> Attributes:
    found = {}
    for keyword, value in HEAD.items():
        tag = tag_of(keyword)
        if tag is None:
            raise SystemExit(f"{keyword} is not in the dictionary")
        found[(tag,)] = (vr_of(tag) or "", value)
    return Attributes(found)


def _round(rules: RuleSet, facts: RuleFacts) -> float:
    objects = [attributes() for _ in range(OBJECTS)]
    begin = time.perf_counter()
    for each in objects:
        rules.decide(each, facts)
    return (time.perf_counter() - begin) / OBJECTS


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    rules = rule_set(count)
    facts = RuleFacts(
        calling_ae="CT01", called_ae="ROUTER", peer_address="10.1.2.3", sop_class="1.2.840.10008.5.1.4.1.1.2"
    )
    seconds = min(_round(rules, facts) for _ in range(ROUNDS))
    matching = len(rules.decide(attributes(), facts).rules)
    print(f"{count} rules, {matching} match: {seconds * 1e6:.1f} us per decision")


if __name__ == "__main__":
    main()
