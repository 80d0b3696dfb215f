"""The SDK's own exceptions for what a client can get wrong."""

import ovirtsdk4 as sdk
from gateway import connect
from ovirtsdk4 import types

NOBODY = "11111111-2222-3333-4444-555555555555"


def fails(kind, code, call):
    try:
        call()
    except kind as error:
        assert code is None or error.code == code, (error.code, error)
        return error
    raise AssertionError(f"no {kind.__name__}")


wrong = connect(password="not the password")
fails(sdk.AuthError, None, lambda: wrong.test(raise_exception=True))

connection = connect()
system = connection.system_service()
fails(sdk.NotFoundError, 404, system.vms_service().vm_service(NOBODY).get)
fails(sdk.NotFoundError, 404, system.disks_service().disk_service(NOBODY).get)
fails(sdk.NotFoundError, 404, system.vms_service().vm_service(NOBODY).start)
transfers = system.image_transfers_service()
error = fails(
    sdk.Error,
    400,
    lambda: transfers.add(
        types.ImageTransfer(disk=types.Disk(id=NOBODY), direction=types.ImageTransferDirection.DOWNLOAD)
    ),
)
assert error.fault is not None and error.fault.detail, "no fault"
assert all(transfer.disk.id != NOBODY for transfer in transfers.list())
connection.close()
print("ok")
