"""Starts instance VM, starts it once more, and stops it."""

import os

from gateway import connect, wait
from ovirtsdk4 import types

connection = connect()
service = connection.system_service().vms_service().vm_service(os.environ["VM"])
status = types.VmStatus
service.start()
wait(lambda: service.get().status, status.UP, [status.DOWN, status.WAIT_FOR_LAUNCH, status.POWERING_UP])
service.start()
assert service.get().status == status.UP
service.stop()
wait(lambda: service.get().status, status.DOWN, [status.UP, status.POWERING_DOWN])
service.stop()
assert service.get().status == status.DOWN
connection.close()
print("ok")
