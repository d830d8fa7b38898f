"""The next certificate of this member; the controller says when one is due."""

import dataclasses

from nodectl.errors import ControllerUnreachable
from nodectl.node.client import ControlClient
from nodectl.node.state import Membership, StateFolder
from nodectl.trust.ca import Credential
from nodectl.trust.certificate import make_request
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
    except (KeyError, ValueError, TypeError, AttributeError) as exc:
        raise ControllerUnreachable(f"the controller's answer is no certificate: {exc}") from exc

    def changed(old: Membership) -> Membership:
        publishers = merged(old.publishers, told)
        return dataclasses.replace(
            old, identity=identity, ca_pem=ca_pem, publishers=publishers, job_keys=job_keys
        )

    state.write_membership(changed(state.membership()))
    client.use(changed(client.membership))
