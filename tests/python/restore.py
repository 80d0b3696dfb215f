"""Restores the images that backup.py left in FROM to a new instance like VM.

FORMAT raw writes ranges into the new disks, with imageio's client; cow sends whole qcow2 files, each in
one request. Prints `restored ID`.
"""

import http.client
import os
import ssl
import subprocess
import urllib.parse

from gateway import boot_first, close_transfer, connect, open_transfer, wait
from ovirt_imageio import client
from ovirtsdk4 import types

vm_id, folder, form = os.environ["VM"], os.environ["FROM"], os.environ["FORMAT"]
connection = connect()
system = connection.system_service()
old = system.vms_service().vm_service(vm_id)
like = old.get()


def put_whole(url, path):
    parts = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=os.environ["GATEWAY_CA"])
    link = http.client.HTTPSConnection(parts.hostname, parts.port, context=context, timeout=60)
    with open(path, "rb") as image:
        link.request("PUT", parts.path, body=image, headers={"Content-Length": str(os.path.getsize(path))})
        answer = link.getresponse()
        assert answer.status == 200, (answer.status, answer.read())
    link.close()


def restore_disk(number, attachment):
    disk = system.disks_service().disk_service(attachment.disk.id).get()
    raw = os.path.join(folder, f"{number}.raw")
    size = os.path.getsize(raw)
    new = system.disks_service().add(
        types.Disk(
            name=f"{disk.name}-{form}",
            content_type=types.DiskContentType.DATA,
            format=types.DiskFormat.COW,
            provisioned_size=size,
            sparse=True,
            storage_domains=[types.StorageDomain(id=disk.storage_domains[0].id)],
        )
    )
    service = system.disks_service().disk_service(new.id)
    wait(lambda: service.get().status, types.DiskStatus.OK, [types.DiskStatus.LOCKED])
    assert service.get().provisioned_size == size, (service.get().provisioned_size, size)
    transfer, url = open_transfer(
        connection,
        disk=types.Disk(id=new.id),
        direction=types.ImageTransferDirection.UPLOAD,
        format=types.DiskFormat.COW if form == "cow" else types.DiskFormat.RAW,
        timeout_policy=types.ImageTransferTimeoutPolicy.CANCEL,
    )
    if form == "cow":
        # outside of FROM, which holds nothing but images to restore
        whole = f"{folder}-{number}.qcow2"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, whole], check=True)
        put_whole(url, whole)
        os.unlink(whole)
    else:
        client.upload(raw, url, os.environ["GATEWAY_CA"])
    close_transfer(transfer)
    return new.id


attachments = boot_first(old.disk_attachments_service().list())
restored = [restore_disk(number, attachment) for number, attachment in enumerate(attachments)]

vm = system.vms_service().add(
    types.Vm(
        name=f"{like.name}-{form}",
        memory=like.memory,
        cpu=like.cpu,
        cluster=types.Cluster(id=like.cluster.id),
        template=types.Template(name="Blank"),
    )
)
service = system.vms_service().vm_service(vm.id)
assert service.get().status == types.VmStatus.DOWN
for attachment, disk in zip(attachments, restored):
    wanted = types.DiskAttachment(
        disk=types.Disk(id=disk),
        active=True,
        bootable=attachment.bootable,
        interface=types.DiskInterface.VIRTIO,
    )
    service.disk_attachments_service().add(wanted)
    # a client that lost the answer asks again
    service.disk_attachments_service().add(wanted)
got = boot_first(service.disk_attachments_service().list())
assert [attachment.disk.id for attachment in got] == restored, "not the disks that were attached"
if not service.nics_service().list():
    profile = system.vnic_profiles_service().list()[0]
    service.nics_service().add(types.Nic(name="nic1", vnic_profile=types.VnicProfile(id=profile.id)))
print("restored", vm.id)
connection.close()
