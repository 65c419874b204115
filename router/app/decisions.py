"""What the rules say of the objects that come: asked once of all that they cannot tell apart, such as a series."""

from __future__ import annotations

from collections.abc import Hashable

from router.app.held import facts_of
from router.dicom.attributes import SPECIFIC_CHARACTER_SET, Attributes, Path
from router.model import Decision, InstanceInfo, Verdict
from router.routing import RuleSet

REMEMBERED = 1024
"""Decisions."""
LONGEST = 1024
"""Bytes of the values that one of them hangs on."""


class Decisions:
    """One per process, on the event loop. The rules may change between any two questions."""

    __slots__ = ("_known", "_paths", "_rules")

    def __init__(self) -> None:
        self._rules: RuleSet | None = None
        self._paths: tuple[Path, ...] = ()
        self._known: dict[Hashable, Decision] = {}

    def of(self, rules: RuleSet, info: InstanceInfo, attributes: Attributes) -> Decision:
        """As ``rules.decide`` says. What is held is decided each time: it may be a fault that is to be told."""
        if rules is not self._rules:
            self._rules = rules
            self._paths = (SPECIFIC_CHARACTER_SET, *sorted(rules.wanted)) if rules.repeats else ()
            self._known = {}
        values = attributes.alike(self._paths, LONGEST) if self._paths else None
        if values is None:
            return rules.decide(attributes, facts_of(info, info.received))
        origin = info.origin
        seen = origin.calling_ae, origin.called_ae, origin.address, origin.listener
        key = (values, info.sop_class, info.transfer_syntax, seen)
        decision = self._known.get(key)
        if decision is None:
            decision = rules.decide(attributes, facts_of(info, info.received))
            if decision.verdict is not Verdict.HOLD:
                if len(self._known) >= REMEMBERED:
                    self._known.clear()
                self._known[key] = decision
        return decision
