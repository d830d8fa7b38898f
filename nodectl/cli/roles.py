"""Roles as a person writes them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nodectl.trust.token import Role


def parse_role(text: str) -> "Role":
    """Return the role that a word names; a controller is made by init, not by a token.

    Raises:
        InvalidInput: there is no such role.
    """
    from nodectl.errors import InvalidInput
    from nodectl.trust.token import Role

    roles = {role.value: role for role in Role if role is not Role.CONTROLLER}
    if text not in roles:
        raise InvalidInput(f"no role is named {text[:40]!r}", hint="node, operator or installer")
    return roles[text]
