"""What the operator sets for all pages: name, logo, contact and terms."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

LOGO_SUFFIXES = (".svg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Site:
    """The operator's service, as pages show it."""

    name: str = "Stack 3.0"
    logo: Path | None = None
    """Image file; None shows the built-in logo."""
    contact: str = ""
    """E-mail address or URL; empty if there is none."""
    terms: str = ""
    """URL of the terms of use; empty if there are none."""

    @property
    def logo_name(self) -> str:
        """Name of the logo among the static files; empty for the built-in one."""
        return f"logo{self.logo.suffix}" if self.logo else ""

    @property
    def contact_link(self) -> str:
        """Address to which the contact links; empty if there is none."""
        return f"mailto:{quote(self.contact, safe='@')}" if self.contact and "://" not in self.contact else self.contact
