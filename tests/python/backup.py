"""A full backup of instance VM: one raw image per disk in the directory TO, the boot disk first."""

import os

from gateway import boot_first, close_transfer, connect, open_transfer, wait
from ovirt_imageio import client
from ovirtsdk4 import types

vm_id, folder = os.environ["VM"], os.environ["TO"]
connection = connect()
system = connection.system_service()
vm = system.vms_service().vm_service(vm_id)
attachments = boot_first(vm.disk_attachments_service().list())
# the whole disks go into the request, as oVirt's own programs have it
disks = [system.disks_service().disk_service(attachment.disk.id).get() for attachment in attachments]

backups = vm.backups_service()
backup = backups.add(types.Backup(disks=disks))
service = backups.backup_service(backup.id)
phase = types.BackupPhase
try:
    wait(lambda: service.get().phase, phase.READY, [phase.INITIALIZING, phase.STARTING])
    listed = service.disks_service().list()
    assert {disk.id for disk in listed} == {disk.id for disk in disks}
    for number, disk in enumerate(disks):
        transfer, url = open_transfer(
            connection,
            direction=types.ImageTransferDirection.DOWNLOAD,
            format=types.DiskFormat.RAW,
            timeout_policy=types.ImageTransferTimeoutPolicy.CANCEL,
            backup=types.Backup(id=backup.id),
            disk=types.Disk(id=disk.id),
        )
        assert transfer.get().host.id, "no host"
        image = os.path.join(folder, f"{number}.raw")
        client.download(url, image, os.environ["GATEWAY_CA"], fmt="raw")
        close_transfer(transfer)
        assert os.path.getsize(image) == disk.provisioned_size, (os.path.getsize(image), disk.provisioned_size)
        print(disk.id, image)
finally:
    service.finalize()
wait(lambda: service.get().phase, phase.SUCCEEDED, [phase.READY, phase.FINALIZING])
connection.close()
