"""The next certificate of this member, and the keys that count; the controller says when to ask."""

import dataclasses

from nodectl.content.format import decode_root_block
from nodectl.content.frame import FrameCodec
from nodectl.errors import ContentInvalid, ControllerUnreachable
from nodectl.ids import Root
from nodectl.node.client import ControlClient
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import Credential
from nodectl.trust.certificate import make_request
from nodectl.trust.keys import ContentKeys
from nodectl.trust.publisher import Publisher, merged


async def renew(state: StateFolder, client: ControlClient) -> None:
    """Get a certificate with a new key, keep it, and ask with it from now on.

    Raises:
        NodectlError: the controller does not answer, or refuses; the old one is as good as it was.
    """
    request, key = make_request(client.node)
    answer = await client.renew(request)
    try:
        identity = Credential(certificate=answer["certificate"].encode("ascii"), key=key)
        ca_pem = str(answer["ca_pem"])
        told = tuple(Publisher.from_json(one) for one in answer["publishers"])
        job_keys = tuple(bytes.fromhex(one) for one in answer["job_keys"])
        content_keys = ContentKeys.from_hex(answer["content_keys"])
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise ControllerUnreachable(f"the controller's answer is no certificate: {exc}") from exc

    def changed(old: Membership) -> Membership:
        publishers = merged(old.publishers, told)
        return dataclasses.replace(
            old,
            identity=identity,
            ca_pem=ca_pem,
            content_keys=content_keys,
            publishers=publishers,
            job_keys=job_keys,
        )

    # Before the keys are gone: what cannot be opened any more is in nobody's way.
    state.let_go(_of_other_keys(state, content_keys))
    state.write_membership(changed(state.membership()))
    client.use(changed(client.membership))


def _of_other_keys(state: StateFolder, keys: ContentKeys) -> list[Root]:
    """Return the roots held here that these keys do not open."""
    codec, gone = FrameCodec(keys), []
    for held in state.held_roots():
        try:
            known = codec.knows_tag(decode_root_block(held.root_block).realm_tag)
        except ContentInvalid:
            continue  # not for this reason
        if not known:
            gone.append(held.root)
    return gone
