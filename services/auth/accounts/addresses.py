"""Normalization of e-mail addresses, and identification of the mailbox that they reach."""

import re
import unicodedata

import idna

from services.common.errors import InvalidRequest

_CHARACTERS_MAX = 254  # RFC 5321: a path of 256 characters with its two brackets.
_LOCAL_CHARACTERS_MAX = 64
_INPUT_CHARACTERS_MAX = 1_000
"""Limit on the input before normalization. Decomposed text can be several times longer than composed text."""
# Characters that RFC 5322 allows without quotes. With commas, semicolons, colons, brackets or comments, mail programs
# would see several addresses, and one sign-up could send mail to any number of people.
_SPECIAL = frozenset("!#$%&'*+/=?^_`{|}~-")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DOT_INSENSITIVE_DOMAINS = {"gmail.com": "gmail.com", "googlemail.com": "gmail.com"}
"""Domains of providers that ignore dots in the local part, and the canonical domain of each provider."""


def normalized_email(text: str) -> str:
    """Return an e-mail address in the canonical form in which it is stored and compared.

    Characters are composed (NFC) and in lower case, and the domain is in punycode (IDNA 2008). Only the syntax is
    checked, not whether the mailbox exists.

    Raises:
        InvalidRequest: The text is not an e-mail address.
    """
    # Check the length first, so that large inputs are not normalized.
    if len(text) > _INPUT_CHARACTERS_MAX or not text.strip().isprintable():
        raise _invalid_email()
    local, _, domain = _composed(_composed(text.strip()).lower()).rpartition("@")
    email = f"{local}@{_in_punycode(domain)}"
    if len(email) > _CHARACTERS_MAX or len(local) > _LOCAL_CHARACTERS_MAX:
        raise _invalid_email()
    if not all(_is_atom(part) for part in local.split(".")):
        raise _invalid_email()
    return email


def identity_of(email: str) -> str:
    """Return the identity of the mailbox that a normalized address reaches.

    Mail servers deliver `ada+tag@…` to `ada@…`, and some providers ignore dots. Without this, one mailbox could create
    any number of accounts.
    """
    local, _, domain = email.rpartition("@")
    name = local.partition("+")[0] or local
    if domain in _DOT_INSENSITIVE_DOMAINS:
        name, domain = name.replace(".", ""), _DOT_INSENSITIVE_DOMAINS[domain]
    return f"{name}@{domain}"


def domain_of(email: str) -> str:
    """Return the domain of a normalized address, in punycode."""
    return email.rpartition("@")[2]


def needs_smtputf8(email: str) -> bool:
    """Return whether mail to a normalized address requires a server with SMTPUTF8 (RFC 6531)."""
    return not email.isascii()


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _in_punycode(domain: str) -> str:
    try:
        name = domain if domain.isascii() else idna.encode(domain, uts46=True).decode()
        labels = name.split(".")
        # A label with the punycode prefix must be valid punycode.
        decoded = [idna.decode(label) for label in labels if label.startswith("xn--")]
    except (idna.IDNAError, UnicodeError) as exc:
        raise _invalid_email() from exc
    if len(labels) < 2 or not all(_LABEL.fullmatch(label) for label in labels) or "" in decoded:
        raise _invalid_email()
    return name


def _is_atom(text: str) -> bool:
    """Return whether a text is a non-empty RFC 5322 atom, Unicode included, that does not start with a mark."""
    return bool(text) and unicodedata.category(text[0])[0] != "M" and all(map(_is_atom_character, text))


def _is_atom_character(character: str) -> bool:
    return character in _SPECIAL or unicodedata.category(character)[0] in "LMN"


def _invalid_email() -> InvalidRequest:
    return InvalidRequest("Not a valid e-mail address. Enter one such as ada@example.com.", reason="invalid_email")
