"""What the programs here share: a connection, and waiting."""

import os
import time

import ovirtsdk4 as sdk


def connect(password=None):
    return sdk.Connection(
        url=os.environ["GATEWAY_URL"],
        username=os.environ["GATEWAY_USER"],
        password=password or os.environ["GATEWAY_PASSWORD"],
        ca_file=os.environ["GATEWAY_CA"],
    )


def wait(look, wanted, on_the_way=None, seconds=120):
    """Calls look() until it answers wanted; a value that is not on the way ends it."""
    until = time.monotonic() + seconds
    while True:
        found = look()
        if found == wanted:
            return
        if on_the_way is not None and found not in on_the_way:
            raise RuntimeError(f"{found} where {wanted} was expected")
        if time.monotonic() > until:
            raise RuntimeError(f"still {found} after {seconds} s, {wanted} was expected")
        time.sleep(0.3)


def open_transfer(connection, **fields):
    """Starts an image transfer and answers its service and its address once it can be used."""
    from ovirtsdk4 import types

    transfers = connection.system_service().image_transfers_service()
    transfer = transfers.add(types.ImageTransfer(**fields))
    service = transfers.image_transfer_service(transfer.id)
    phase = types.ImageTransferPhase
    wait(lambda: service.get().phase, phase.TRANSFERRING, [phase.INITIALIZING])
    return service, service.get().transfer_url


def close_transfer(service):
    from ovirtsdk4 import types

    service.finalize()
    phase = types.ImageTransferPhase
    wait(
        lambda: service.get().phase,
        phase.FINISHED_SUCCESS,
        [phase.TRANSFERRING, phase.FINALIZING_SUCCESS],
    )


def boot_first(attachments):
    return sorted(attachments, key=lambda attachment: not attachment.bootable)
