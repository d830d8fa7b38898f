"""/etc/hosts of a node: its own name and address; the site's lines stay. Pure."""

from collections.abc import Sequence

_OWN_ADDRESS = "127.0.1.1"  # Debian's line for the host's own name
_MARK = "# nodectl: this node"
_EMPTY = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def own_hosts(hosts: str, name: str, addresses: Sequence[str] = ()) -> str:
    """Return the text of /etc/hosts for a node, made from the image's (empty: none).

    The line of 127.0.1.1 gets the node's name; a domain there is kept: "golden.example.org golden"
    becomes "node07.example.org node07". A node with fixed addresses has its name on those instead,
    for a name that leads to 127.0.1.1 is no use to its peers.
    """
    lines, names = [], name
    for line in hosts.splitlines(keepends=True):
        fields = line.split("#", 1)[0].split()
        mine = len(fields) > 1 and (fields[0] == _OWN_ADDRESS or _MARK in line)
        if not mine:
            lines.append(line)
            continue
        short, dot, domain = fields[1].partition(".")
        names = f"{name}.{domain} {name}" if short and dot else name
        if not addresses:
            lines.append(f"{_OWN_ADDRESS}\t{names}\n")
    if not addresses:
        return "".join(lines)
    known = {line.split()[0] for line in lines if name in line.split("#", 1)[0].split()[1:]}
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    own = [f"{one}\t{names}\t{_MARK}\n" for one in addresses if one not in known]
    return "".join(lines or [_EMPTY]) + "".join(own)
