"""SELinux labels of the files that are written: each gets the type of its kind. Pure.

Source: file_contexts of Fedora's selinux-policy-targeted. What matches nothing gets `etc_t` or
`var_lib_t`, as a new file there would.
"""

import re

_TYPES = (
    (r"etc/ssh/ssh_host_.*_key(?:\.pub)?", "sshd_key_t"),
    (r"etc/hostname", "hostname_etc_t"),
    (r"etc/machine-id", "machineid_t"),
    (r"etc/(?:hosts|resolv\.conf).*", "net_conf_t"),
    (r"etc/sysconfig/network-scripts/.*", "net_conf_t"),
    (r"etc/NetworkManager/system-connections/.*", "NetworkManager_etc_rw_t"),
    (r"etc/NetworkManager/.*", "NetworkManager_etc_t"),
    (r"etc/systemd/network/.*", "net_conf_t"),
    (r"etc/systemd/system/.*", "systemd_unit_file_t"),
    (r"etc/krb5\.keytab", "krb5_keytab_t"),
    (r"etc/munge/.*", "munge_etc_t"),
    (r"etc/puppetlabs/.*", "puppet_etc_t"),
    (r"var/lib/systemd/random-seed", "random_seed_t"),
    (r"var/.*", "var_lib_t"),
)


def selinux_label(path: str) -> bytes:
    """Return the value of security.selinux for a path (no leading "/")."""
    kind = next((kind for pattern, kind in _TYPES if re.fullmatch(pattern, path)), "etc_t")
    return f"system_u:object_r:{kind}:s0\0".encode()
