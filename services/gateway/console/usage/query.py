"""The usage page's state: range, filters and breakdown. All of it is in the query of the page's address."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from services.common.ids import Kind, is_id
from services.common.surface import Surface
from services.gateway.console.labels import OUTCOMES
from services.gateway.console.ports import RequestFilter
from services.gateway.console.usage.ranges import DAY, DEFAULT, UsageRange, range_of
from services.gateway.console.usage.reports import Breakdown

_MODEL_CHARACTERS_MAX = 256
_SURFACES = tuple(Surface)
_PARAMETERS = ("range", "from", "to", "key", "model", "outcome", "surface", "by", "live")
"""In the order of addresses, so that a state has one address."""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """The state of the page."""

    range: UsageRange
    breakdown: Breakdown
    filters: RequestFilter
    """Selects the requests of the range."""
    is_live: bool
    """Whether the list is to show requests as they end."""
    problems: Sequence[str]
    """What of the address is not used and why, for the user."""

    @property
    def everything(self) -> RequestFilter:
        """The filter without what the user filters by."""
        return _in_range(self.range)

    @property
    def is_filtered(self) -> bool:
        """Whether the user filters by anything but the time."""
        one = self.filters
        return bool(one.key_id or one.model or one.outcome or one.surface)

    @property
    def parameters(self) -> Mapping[str, str]:
        """The parameters of the page's address, without those that have their default."""
        one, days = self.filters, self.range.name == ""
        named = {
            "range": "" if self.range.name == DEFAULT else self.range.name,
            "from": self.range.from_day if days else "",
            "to": self.range.to_day if days else "",
            "key": one.key_id,
            "model": one.model,
            "outcome": one.outcome,
            "surface": one.surface or "",
            "by": "" if self.breakdown is Breakdown.MODEL else self.breakdown,
            "live": "" if self.is_live else "off",
        }
        return {name: text for name, text in named.items() if text}

    def link(self, path: str = "/usage", **changes: str) -> str:
        """Return the address of the page, or of another path, with some parameters changed or, if empty, left out."""
        texts = {**dict.fromkeys(_PARAMETERS, ""), **self.parameters, **changes}
        changed = {name: text for name, text in texts.items() if text}
        return f"{path}?{urlencode(changed)}" if changed else path

    def ranged(self, name: str) -> str:
        """Return the address of the page with a named range."""
        return self.link(**{"from": "", "to": "", "range": "" if name == DEFAULT else name})


def usage_query(query: Mapping[str, str], *, now: float) -> UsageQuery:
    """Return the state that an address asks for. What cannot be used is ignored, and named in `problems`."""
    texts = {name: text.strip() for name, text in query.items()}
    chosen, problems = range_of(texts.get("range", ""), texts.get("from", ""), texts.get("to", ""), now=now)
    problems = list(problems)

    def checked(name: str, is_valid: bool, expected: str) -> str:
        text = texts.get(name, "")
        if text and not is_valid:
            problems.append(f"“{text[:40]}” is not {expected}, so `{name}` is ignored.")
        return text if is_valid else ""

    key_id, model, before = texts.get("key", ""), texts.get("model", ""), texts.get("before", "")
    surface = checked("surface", texts.get("surface") in _SURFACES, f"one of {', '.join(_SURFACES)}")
    breakdown = checked("by", texts.get("by") in tuple(Breakdown), f"one of {', '.join(Breakdown)}")
    filters = _in_range(
        chosen,
        key_id=checked("key", is_id(key_id, Kind.KEY), "the id of a key, key_…"),
        model=checked("model", _is_model(model), "the name of a model"),
        outcome=checked("outcome", texts.get("outcome") in OUTCOMES, f"one of {', '.join(OUTCOMES)}"),
        surface=Surface(surface) if surface else None,
        before=checked("before", is_id(before, Kind.REQUEST), "the id of a request, req_…"),
    )
    by = Breakdown(breakdown) if breakdown else Breakdown.MODEL
    return UsageQuery(chosen, by, filters, texts.get("live") != "off", problems)


def _is_model(text: str) -> bool:
    return 0 < len(text) <= _MODEL_CHARACTERS_MAX and "\0" not in text


def _in_range(
    chosen: UsageRange,
    *,
    key_id: str = "",
    model: str = "",
    outcome: str = "",
    surface: Surface | None = None,
    before: str = "",
) -> RequestFilter:
    """Return a filter for the requests of a range.

    Days are selected by the day of the request, as in their sums. A time a day earlier and later then bounds which
    rows are read.
    """
    is_of_days = chosen.step == DAY
    slack = DAY if is_of_days else 0
    return RequestFilter(
        key_id=key_id,
        model=model,
        outcome=outcome,
        surface=surface,
        before=before,
        from_day=chosen.from_day if is_of_days else "",
        to_day=chosen.to_day if is_of_days else "",
        from_time=chosen.start - slack,
        to_time=chosen.end + slack,
    )
