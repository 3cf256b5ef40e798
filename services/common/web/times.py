"""Times as pages show them."""

from datetime import UTC, datetime

from markupsafe import Markup


def moment(seconds: float | None) -> Markup:
    """Return a time as an HTML `time` element."""
    if seconds is None:
        return Markup("never")
    at = datetime.fromtimestamp(int(seconds), UTC)
    return Markup('<time datetime="{}">{}</time>').format(
        at.isoformat().replace("+00:00", "Z"), at.strftime("%-d %b %Y, %H:%M UTC")
    )


def ago(seconds: float | None, *, now: float) -> str:
    """Format the age of a time in its largest unit. None is `never`."""
    if seconds is None:
        return "never"
    passed = max(0, now - seconds)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if passed >= size:
            count = int(passed // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
