"""Rule files to decisions; pure."""

from router.routing.facts import AttributeView, RuleFacts
from router.routing.load import load
from router.routing.rules import Explanation, RuleSet

__all__ = ["AttributeView", "Explanation", "RuleFacts", "RuleSet", "load"]
