"""Roles as a person writes them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodectl.trust.token import Role


def parse_role(text: str) -> "Role":
    """Return the role that a word names.

    Raises:
        InvalidInput: there is no such role.
    """
    from nodectl.errors import InvalidInput
    from nodectl.trust.token import Role

    roles = {role.value: role for role in Role}
    if text not in roles:
        raise InvalidInput(f"no role is named {text[:40]!r}", hint="node, operator or installer")
    return roles[text]
