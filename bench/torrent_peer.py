"""One BitTorrent peer on libtorrent, for bench/swarm.py: a rival, and no part of nodectl.

    torrent_peer.py seed|fetch FILE.torrent FOLDER LISTEN_ADDRESS PEER_ADDRESS...

A seed runs until it is killed; who fetches ends as soon as it has everything, but goes on
serving until its standard input closes. Runs under any Python that has libtorrent.
"""

import sys
import time

import libtorrent as lt

PORT = 6881


def main() -> None:
    role, torrent, folder, address, *peers = sys.argv[1:]
    session = lt.session(
        {
            "listen_interfaces": f"{address}:{PORT}",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "in_enc_policy": 2,
            "out_enc_policy": 2,
            "allow_multiple_connections_per_ip": True,
            "unchoke_slots_limit": 8,
            "connection_speed": 200,
            "mixed_mode_algorithm": 0,
        }
    )
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = folder
    if role == "seed":
        parameters.flags |= lt.torrent_flags.seed_mode
    handle = session.add_torrent(parameters)
    handle.unset_flags(lt.torrent_flags.auto_managed)
    handle.resume()
    for peer in peers:
        handle.connect_peer((peer, PORT))
    while role == "seed" or not handle.status().is_seeding:
        time.sleep(0.02)
    print("done", flush=True)
    sys.stdin.read()


main()
